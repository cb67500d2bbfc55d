-- counts: the numbers of groups, but for their oldest message, page by page.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   gid after which to go on, 0 to begin
-- Reply {gid to go on after, 0 at the end; per group
--       {group key, 1 if declared, dead letters, parked lanes, some of their shards,
--       {counter, number…}, what its queue lets through, bytes of memory, about, its rate limits
--       packed (see shared/limits.lua), what its queue holds, packed}…}
-- include usage

-- How many groups one call looks at; those of many parked lanes fill a page earlier.
local GROUPS, SHARDS = 50, 1000

-- Gids are given out one after the other and never again: no group is in two pages.
local after = tonumber(ARGV[4])
local last = tonumber(call('HGET', META, 'groups') or 0)
local reply, named = {0}, 0

local function numbers_of(group)
    local gid, counters = group.gid, {}
    local parked = T .. ':p:' .. gid
    local number, numbers = call('SCARD', parked), call('HGETALL', T .. ':g:' .. gid)
    for index = 1, #numbers, 2 do
        counters[numbers[index]] = numbers[index + 1]
    end
    local shards = number > 0 and call('SRANDMEMBER', parked, SHARDS) or {}
    named = named + #shards
    return {group.key, group.declared and 1 or 0, call('ZCARD', dead_key(gid)), number, shards,
        numbers, group.gate, math.floor(group_usage(group, counters)),
        cmsgpack.pack(group.rates or {}), group.bounds and cmsgpack.pack(group.bounds) or false}
end

for gid = after + 1, last do
    if gid > after + GROUPS or named >= SHARDS then
        reply[1] = gid - 1
        break
    end
    local key = call('HGET', T .. ':names', gid)
    if key then -- else whoever made it failed halfway
        reply[#reply + 1] = numbers_of(known_group(key))
    end
end
return reply
