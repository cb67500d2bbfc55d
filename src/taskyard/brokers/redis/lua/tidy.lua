-- tidy: remove a bounded number of old dead letters, and of sleepers that never came back.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   microseconds for which a dead letter is kept
--       5   how many to remove at most
-- Reply how many dead letters were removed
-- include letters

-- A sleeper that lives registers again every few seconds.
local FORGOTTEN = 3600 * 1000000

local saved = remembered()
if saved then
    return tonumber(saved)
end

local age, limit, removed = tonumber(ARGV[4]), tonumber(ARGV[5]), 0

local function drop_old(group)
    for _, number in ipairs(call('ZRANGE', dead_key(group.gid), 0, limit - removed - 1)) do
        local packed = call('HGET', LETTERS, number)
        if packed and cmsgpack.unpack(packed)[11] + age > now then
            return
        end
        drop_letter(group.gid, number)
        count(group, 'dead_dropped', 1)
        removed = removed + 1
    end
end

for _, gid in ipairs(call('HKEYS', T .. ':names')) do
    if removed < limit then
        drop_old(group_of(gid))
    end
end
local found = call('HSCAN', SLEEPERS, 0, 'COUNT', limit)[2]
for index = 1, #found, 2 do
    if cmsgpack.unpack(found[index + 1])[4] + FORGOTTEN < now then
        forget_sleeper(found[index])
    end
end
store()
remember(removed)
return removed
