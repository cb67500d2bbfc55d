-- resettle: decide anew where lanes are, after their group was declared anew.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   group key
--       5…  shards
-- Reply  1
-- include sleepers

local group = known_group(ARGV[4])
if not group then
    return 1
end
local shards = {}
for index = 5, #ARGV do
    shards[index - 4] = ARGV[index]
end
load_lanes(group, shards)
for _, shard in ipairs(shards) do
    settle_down(lane_of(group, shard))
end
store()
return 1
