-- The rules of lanes, as in brokers/lane.py; a test holds both against each other.
--
-- A lane is a table of waiting, bytes, oldest, held, blocked, parked, tat, deadline; a policy one
-- of size, within, bytes, concurrency, max_deliveries, shard_limit, minimum, lead.
-- include rate

local NOWHERE, READY, LATER, FADING = 0, 1, 2, 3

-- Whether a lane waits for more than that its batch fills; until when.
local function held_up(lane, policy)
    local at = lane.blocked
    if at <= now and policy.shard_limit then
        at = gcra.token_at(lane.tat, policy.shard_limit)
    end
    return at > now, at
end

local function enough(policy)
    return policy.minimum > 0 and policy.minimum or policy.size
end

local function flush_reason(lane, policy)
    if lane.waiting >= enough(policy) then
        return 'size'
    elseif policy.bytes > 0 and lane.bytes >= policy.bytes then
        return 'bytes'
    elseif math.min(lane.oldest, now) + policy.within <= now then
        return 'age'
    elseif lane.deadline > 0 and lane.deadline - policy.lead <= now then
        return 'deadline'
    end
end

local function place(lane, policy)
    if lane.parked or policy.concurrency > 0 and lane.held >= policy.concurrency then
        return NOWHERE, 0
    elseif lane.waiting == 0 then
        return lane.tat > now and FADING or NOWHERE, lane.tat > now and lane.tat or 0
    end
    local waits, at = held_up(lane, policy)
    if waits then
        return LATER, at
    elseif policy.within > 0 and not flush_reason(lane, policy) then
        local by_age = math.min(lane.oldest, now) + policy.within
        return LATER, lane.deadline > 0 and math.min(by_age, lane.deadline - policy.lead) or by_age
    end
    return READY, 0
end

local function take_count(lane, policy, room, reason, begun)
    local count = math.min(lane.waiting, room)
    if reason ~= 'size' or policy.within == 0 then
        return count
    elseif begun and room < math.min(lane.waiting, policy.size) then
        return 0
    end
    local rest = count % policy.size
    if count > policy.size and (count < lane.waiting or rest < enough(policy)) then
        return count - rest
    end
    return count
end

local function cap_after_loss(claimed)
    return math.max(1, math.floor((claimed + 3) / 4))
end

local function is_given_up(policy, claimed, singled_out, losses)
    return claimed == 1 and losses >= policy.max_deliveries
        and (singled_out or policy.max_deliveries == 1)
end
