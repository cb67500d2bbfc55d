-- release: let a parked lane go on.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   group key
--       5   shard
-- Reply 1 if it was parked, else 0
-- include sleepers

local saved = remembered()
if saved then
    return tonumber(saved)
end

local group = known_group(ARGV[4])
local lane = group and lane_of(group, ARGV[5])
if not lane or not lane.parked then
    return 0
end
set_parked(lane, false)
settle_down(lane)
store()
remember(1)
return 1
