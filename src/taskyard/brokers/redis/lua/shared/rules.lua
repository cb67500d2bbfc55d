-- The rules of lanes, as in brokers/lane.py; a test holds both against each other.
--
-- A lane is a table of waiting, bytes, oldest, held, blocked, parked, tat; a policy one of size,
-- within, bytes, concurrency, max_deliveries, shard_limit.
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

local function flush_reason(lane, policy)
    if lane.waiting >= policy.size then
        return 'size'
    elseif policy.bytes > 0 and lane.bytes >= policy.bytes then
        return 'bytes'
    elseif math.min(lane.oldest, now) + policy.within <= now then
        return 'age'
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
        return LATER, math.min(lane.oldest, now) + policy.within
    end
    return READY, 0
end

local function take_count(lane, policy, room, reason, begun)
    local count = math.min(lane.waiting, room)
    if reason ~= 'size' or policy.within == 0 then
        return count
    elseif begun and room < math.min(lane.waiting, policy.size) then
        return 0
    elseif count > policy.size then
        return count - count % policy.size
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
