-- Entries: messages as lanes, claims and the due set hold them.
--
--   8 bytes  sequence, big-endian
--   1 byte   flags: 1 = it has a history, 2 = it has a record, 4 = it has a mark (unique.lua),
--            8 = it has a time of its own within which it must begin
--  24 bytes  only with a history: since (8), deliveries, attempts, losses, cap (4 each)
--            only with a mark: its length (2), the mark
--   8 bytes  only with such a time: microseconds that it may wait in its lane
--            then the body, as it was put

local HISTORY, RECORDED, MARKED, EXPIRING = 1, 2, 4, 8
local BARE, LONG = 9, 33

-- The flags of what stands between history and body, and that itself; `mark`, `expires`: nil
-- without.
local function entry_extras(mark, expires)
    local flags, extras = 0, ''
    if mark then
        flags, extras = MARKED, struct.pack('>I2', #mark) .. mark
    end
    if expires then
        flags, extras = flags + EXPIRING, extras .. struct.pack('>I8', expires)
    end
    return flags, extras
end

-- With a mark: of the letter `mode`, and `key`.
local function fresh_entry(sequence, recorded, body, key, mode, expires)
    local flags, extras = 0, ''
    if key or expires then
        flags, extras = entry_extras(key and mode .. key, expires)
    end
    return struct.pack('>I8B', sequence, flags + (recorded and RECORDED or 0)) .. extras .. body
end
