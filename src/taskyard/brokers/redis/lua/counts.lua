-- counts: the numbers of all groups, but for their oldest message.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
-- Reply per group {group key, 1 if declared, dead letters, parked lanes, some of their shards,
--       {counter, number…}, bytes of memory, about}
-- include usage

local SOME = 1000

local reply = {}
for _, gid in ipairs(call('HKEYS', T .. ':names')) do
    local group, parked = group_of(gid), T .. ':p:' .. gid
    local number, counters = call('SCARD', parked), {}
    local numbers = call('HGETALL', T .. ':g:' .. gid)
    for index = 1, #numbers, 2 do
        counters[numbers[index]] = numbers[index + 1]
    end
    reply[#reply + 1] = {group.key, group.declared and 1 or 0, call('ZCARD', T .. ':d:' .. gid),
        number, number > 0 and call('SRANDMEMBER', parked, SOME) or {},
        numbers, math.floor(group_usage(group, counters))}
end
return reply
