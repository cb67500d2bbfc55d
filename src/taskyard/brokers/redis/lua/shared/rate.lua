-- What a rate limit allows, as in brokers/rate.py; a test holds both against each other.
--
-- A limit is a table of interval (microseconds per token), burst, filling (microseconds).

local gcra = {}

-- The limit of what is stored, {count, per (microseconds), burst} or false, divided by `parts`;
-- nil: nothing is limited.
function gcra.read(stored, parts)
    if not stored or stored[1] == 0 then
        return nil
    end
    local count, per, burst = unpack(stored)
    local interval = per * parts / count
    burst = math.max(1, math.floor(burst / parts))
    return {interval = interval, burst = burst, filling = math.ceil(burst * interval)}
end

function gcra.clamped(tat, limit)
    if not limit or tat <= now then
        return 0
    end
    return math.min(tat, now + limit.filling)
end

function gcra.tokens(tat, limit)
    local interval = limit.interval
    local left = now + limit.filling - math.max(now, gcra.clamped(tat, limit))
    local count = math.floor(left / interval)
    -- The division is rounded, the tat is whole.
    if math.ceil((count + 1) * interval) <= left then
        return count + 1
    end
    return math.ceil(count * interval) > left and count - 1 or count
end

function gcra.token_at(tat, limit)
    local full = math.max(now, gcra.clamped(tat, limit))
    return math.max(now, full - limit.filling + math.ceil(limit.interval))
end

function gcra.spend(tat, limit, count)
    return math.max(now, gcra.clamped(tat, limit)) + math.ceil(count * limit.interval)
end

function gcra.handed_out(since, token, set_at)
    return token > set_at and since or 0
end

function gcra.refund(tat, limit, since, taken, count)
    if since == 0 then
        return tat
    end
    local lost = math.max(0, now - since - math.floor((taken - count) * limit.interval))
    local back = math.max(0, math.floor(count * limit.interval) - lost)
    return back > 0 and math.max(0, gcra.clamped(tat, limit) - back) or tat
end
