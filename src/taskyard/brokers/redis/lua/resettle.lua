-- resettle: decide anew where lanes are, after their group was declared anew.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   group key
--       5…  shards
-- Reply how many of the shards it looked at before it had read enough
-- include sleepers

-- A lane whose bytes count, and that did not count them before, is read as a whole.
local MESSAGES = 10000

local group = known_group(ARGV[4])
if not group then
    return #ARGV - 4
end
local shards, looked, messages = {}, 0, 0
for index = 5, #ARGV do
    shards[index - 4] = ARGV[index]
end
load_lanes(group, shards)
for _, shard in ipairs(shards) do
    if messages >= MESSAGES then
        break
    end
    local lane = lane_of(group, shard)
    settle_down(lane)
    looked = looked + 1
    if lane.bytes >= 0 then
        messages = messages + math.min(lane.waiting, group.size)
    end
end
store()
return looked
