-- open: let closed lanes be claimed.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   queue
--       5   epoch of the split
--       6   group key, or '' for some of all that are closed; then the partition is open when there
--           are no more
--       7…  shards
-- Reply how many it opened; 0 without a group: the partition is open
-- include sleepers

local queue, key = ARGV[4], ARGV[6]
local SOME = 500

local split = split_of(queue)
if split[1] ~= tonumber(ARGV[5]) or split[2] ~= CLOSED then
    return 0
end

local function open(group, shards)
    spread('SADD', T .. ':o:' .. group.gid, shards)
    spread('SREM', T .. ':w:' .. group.gid, shards)
    load_lanes(group, shards)
    for _, shard in ipairs(shards) do
        settle_down(lane_of(group, shard))
    end
end

if key ~= '' then
    open(known_group(key), {unpack(ARGV, 7)})
    store()
    return #ARGV - 6
end
local opened, here = 0, groups_of(queue)
for _, group in ipairs(here) do
    local shards = call('SRANDMEMBER', T .. ':w:' .. group.gid, SOME - opened)
    open(group, shards)
    opened = opened + #shards
end
if opened == 0 then
    for _, group in ipairs(here) do
        call('UNLINK', T .. ':o:' .. group.gid)
    end
    split[2] = SETTLED
    store_split(queue, split)
end
store()
return opened
