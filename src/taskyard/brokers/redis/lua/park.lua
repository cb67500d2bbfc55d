-- park: hold a lane, whether it has messages or not, until it is released.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   group key
--       5   shard
-- Reply 1: it is parked; 0: it was already; 2: the shard is in another container, and nothing of it
--       is to come here any more, or to leave
-- include sleepers

local PARKED, WAS_PARKED, ELSEWHERE = 1, 0, 2

local saved = remembered()
if saved then
    return tonumber(saved)
end

local group, shard = made_group(ARGV[4]), ARGV[5]
-- What leaves takes along that it is parked.
if is_elsewhere(group, shard) and not leaves(group, shard) then
    return ELSEWHERE
end
local lane = lane_of(group, shard)
if lane.parked then
    return WAS_PARKED
end
set_parked(lane, true)
settle_down(lane)
store()
remember(PARKED)
return PARKED
