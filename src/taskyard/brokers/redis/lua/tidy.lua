-- tidy: remove a bounded number of old dead letters, and of windows of unique keys that are over;
-- when there are none, of sleepers that never came back, page by page.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   microseconds for which a dead letter is kept
--       5   how many to remove at most
--       6   cursor, '0' to begin
-- Reply {how many letters and windows were removed; cursor to go on with, '' at the end}
-- include letters

-- A sleeper that lives registers again every few seconds.
local FORGOTTEN = 3600 * 1000000
-- How many sleepers it looks at, about, and after how many lines that it took them from it stops.
local PAGE, LINES = 100, 1000

local saved = remembered()
if saved then
    return cmsgpack.unpack(saved)
end

local function drop_old(before, limit)
    local found = call('ZRANGEBYSCORE', BURIED, '-inf', before, 'LIMIT', 0, limit)
    for _, member in ipairs(found) do
        local gid, number = member:match('^(%d+):(%d+)$')
        drop_letter(gid, number)
        count(group_of(gid), 'dead_dropped', 1)
    end
    return #found
end

-- Returns the next cursor, '' at the end; the same once more if there was too much to do.
local function forget_old(cursor)
    local found, lines = call('HSCAN', SLEEPERS, cursor, 'COUNT', PAGE), 0
    for index = 1, #found[2], 2 do
        if cmsgpack.unpack(found[2][index + 1])[4] + FORGOTTEN < now then
            if lines >= LINES then
                return cursor
            end
            local sleeper = forget_sleeper(found[2][index])
            lines = lines + #(sleeper and sleeper[2] or {})
        end
    end
    return found[1] ~= '0' and found[1] or ''
end

local limit, cursor = tonumber(ARGV[5]), ARGV[6]
notes.forget_old()
local removed = drop_old(now - tonumber(ARGV[4]), limit) + unique.forget_windows(limit)
fading.forget(limit)
if removed < limit then
    cursor = forget_old(cursor)
end
store()
remember(cmsgpack.pack({removed, cursor}))
return {removed, cursor}
