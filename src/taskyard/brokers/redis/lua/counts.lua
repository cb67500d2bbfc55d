-- counts: the numbers of all groups, but for their oldest message.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
-- Reply per group {group key, 1 if declared, dead letters, parked lanes, some of their shards,
--       {counter, number…}}
-- include groups

local SOME = 1000

local reply = {}
for _, gid in ipairs(call('HKEYS', T .. ':names')) do
    local group, parked = group_of(gid), T .. ':p:' .. gid
    local number = call('SCARD', parked)
    reply[#reply + 1] = {group.key, group.declared and 1 or 0, call('ZCARD', T .. ':d:' .. gid),
        number, number > 0 and call('SRANDMEMBER', parked, SOME) or {},
        call('HGETALL', T .. ':g:' .. gid)}
end
return reply
