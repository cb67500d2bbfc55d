-- oldest: the lowest sequence that waits in some lanes.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   group key
--       5…  shards
-- Reply the sequence (microseconds), 0 when nothing waits there
-- include lanes

local group = known_group(ARGV[4])
local shards = {}
for index = 5, #ARGV do
    shards[index - 4] = ARGV[index]
end
local oldest = math.huge
if group then
    load_lanes(group, shards)
    for _, shard in ipairs(shards) do
        local lane = lane_of(group, shard)
        oldest = math.min(oldest, lane.oldest > 0 and lane.oldest or oldest_sequence(lane))
    end
end
return oldest < math.huge and oldest or 0
