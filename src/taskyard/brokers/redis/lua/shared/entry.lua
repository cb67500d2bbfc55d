-- Entries: messages as lanes, claims and the due set hold them.
--
--   8 bytes  sequence, big-endian
--   1 byte   flags: 1 = it has a history, 2 = it has a record
--  24 bytes  only with a history: since (8), deliveries, attempts, losses, cap (4 each)
--            then the body, as it was put

local HISTORY, RECORDED = 1, 2
local BARE, LONG = 9, 33

local function fresh_entry(sequence, recorded, body)
    return struct.pack('>I8B', sequence, recorded and RECORDED or 0) .. body
end

local function entry_sequence(entry)
    return (struct.unpack('>I8', entry))
end

local function entry_body_size(entry)
    return #entry - (entry:byte(BARE) % 2 == HISTORY and LONG or BARE)
end

local function read_entry(entry)
    local sequence, flags = struct.unpack('>I8B', entry)
    local message = {sequence = sequence, recorded = flags >= RECORDED}
    if flags % 2 == HISTORY then
        message.since, message.deliveries, message.attempts, message.losses, message.cap =
            struct.unpack('>I8I4I4I4I4', entry, BARE + 1)
        message.body = entry:sub(LONG + 1)
    else
        message.since, message.deliveries, message.attempts = sequence, 0, 0
        message.losses, message.cap = 0, 0
        message.body = entry:sub(BARE + 1)
    end
    return message
end

local function write_entry(message)
    if message.deliveries == 0 and message.since == message.sequence and message.losses == 0 then
        return fresh_entry(message.sequence, message.recorded, message.body)
    end
    local flags = HISTORY + (message.recorded and RECORDED or 0)
    return struct.pack('>I8BI8I4I4I4I4', message.sequence, flags, message.since,
        message.deliveries, message.attempts, message.losses, message.cap) .. message.body
end

-- The text that begins at `at`, '' when there is none, or not the whole of it.
local function text_at(body, at)
    local kind, first, length = body:byte(at) or 0, at, nil
    if kind >= 0xa0 and kind <= 0xbf then
        first, length = at + 1, kind - 0xa0
    elseif kind == 0xd9 and #body >= at + 1 then
        first, length = at + 2, body:byte(at + 1)
    elseif kind == 0xda and #body >= at + 2 then
        first, length = at + 3, (struct.unpack('>I2', body, at + 1))
    end
    if length and #body >= first + length - 1 then
        return body:sub(first, first + length - 1)
    end
    return ''
end

-- The id at the beginning of a body, '' when it is no envelope.
local function body_id(body)
    local array = body:byte(1)
    return array and array >= 0x92 and array <= 0x94 and text_at(body, 2) or ''
end
