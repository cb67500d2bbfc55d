-- withdraw: take messages that wait out of a lane; they end as cancelled.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   group key
--       5   shard
--       6   priority
--       7…  their sequences
-- Reply {sequence…} of those that were there
-- include claims
-- include withdrawal

local saved = remembered()
if saved then
    return cmsgpack.unpack(saved)
end

local group, reply = known_group(ARGV[4]), {}
for index = 7, group and #ARGV or 0 do
    local removed = take_waiting(group, ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[index]))
    if removed then
        if removed.attempts > 0 then -- the others waited for it
            local lane = lane_of(group, ARGV[5])
            lane.blocked = 0
            changed(lane)
            settle_down(lane)
        end
        notes.stop(group, ARGV[5], removed)
        reply[#reply + 1] = tonumber(ARGV[index])
    end
end
store()
remember(cmsgpack.pack(reply))
return reply
