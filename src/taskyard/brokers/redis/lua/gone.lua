-- gone: say of which lanes nothing is left in the container that they leave. That is final.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   queue
--       5   epoch of the split
--       6   group key
--       7…  shards
-- Reply those shards
-- include lanes

local queue, epoch, key = ARGV[4], tonumber(ARGV[5]), ARGV[6]

-- What is on its way is older than all that waits where it goes to.
if (split_of(queue)[1] or 1) < epoch or call('EXISTS', T .. ':slot:' .. queue) == 1 then
    return {}
end
local group = known_group(key)
if group then
    load_lanes(group, {unpack(ARGV, 7)})
end
local gone = {}
for index = 7, #ARGV do
    local lane = group and lane_of(group, ARGV[index])
    if not lane or (waiting(lane) == 0 and lane.held == 0 and not lane.parked
        and lane.tat <= now)
    then
        gone[#gone + 1] = ARGV[index]
    end
end
return gone
