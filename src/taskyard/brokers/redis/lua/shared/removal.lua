-- Taking messages out of lanes without a claim.
-- include lanes

local removal = {}

-- Keeps what a lane knows of a priority true: a message of it was taken out.
function removal.leave(lane, priority)
    if contains(lane.back, priority) and call('EXISTS', back_key(lane, priority)) == 0 then
        lane.back = without(lane.back, priority)
        changed(lane)
    end
    if lane.priorities[2] and length_at(lane, priority) == 0 then
        lane.priorities = without(lane.priorities, priority)
        changed(lane)
    end
end

-- Keeps what a lane knows of its messages true: so many have left it.
function removal.count_out(lane, number, bytes)
    local group = lane.group
    lane.waiting = lane.waiting and lane.waiting - number
    count(group, 'waiting', -number)
    if waiting(lane) == 0 then
        count(group, 'lanes', -1)
    end
    if group.within > 0 then
        lane.bytes = lane.bytes < 0 and -1 or lane.bytes - bytes
        lane.oldest = lane.waiting > 0 and oldest_sequence(lane) or 0
        changed(lane)
    elseif lane.oldest ~= 0 then
        lane.oldest = 0
        changed(lane)
    end
end
