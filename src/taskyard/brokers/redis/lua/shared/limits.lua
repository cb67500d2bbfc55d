-- Rate limits of groups and queues. A group that is there has those of its queue with it.
--
-- T:rates  hash  queue -> packed: its limit as declared, as set at run time; number of partitions
--                by which it is divided
-- T:tats   hash  gid, or `q` and a queue -> tat of its bucket, unless that is full (see rate.lua)
--
-- What is stored of a group: its limit, that of each of its shards, both as declared, then as set
-- at run time; those of its queue, as declared and as set at run time; number of partitions; the
-- last sequences that were given out before its limit, that of its shards and its part of that of
-- its queue became what they are. A limit that was lifted at run time is {0, 0, 0}; where there is
-- none, false stands.
-- include container
-- include rate

local limits = {RATE = 1, SHARD_RATE = 2, CHANGED_RATE = 3, CHANGED_SHARD_RATE = 4, QUEUE = 5,
    CHANGED_QUEUE = 6, PARTS = 7, SET_AT = {limit = 8, shard_limit = 9, queue_limit = 10}}

-- Reads what holds for a group from what is stored of it.
function limits.read(group)
    local rates = group.rates
    group.limit, group.shard_limit, group.queue_limit = nil, nil, nil
    if rates then
        -- What was split divides anew.
        local parts = group.partitions or rates[limits.PARTS]
        group.limit = gcra.read(rates[3] or rates[1], parts)
        group.shard_limit = gcra.read(rates[4] or rates[2], 1)
        group.queue_limit = gcra.read(rates[6] or rates[5], parts)
    end
end

-- The same after a change; notes which limits are others than before (see gcra.handed_out).
function limits.read_changed(group)
    local before = {}
    for name in pairs(limits.SET_AT) do
        before[name] = group[name]
    end
    limits.read(group)
    for name, index in pairs(group.rates and limits.SET_AT or {}) do
        local old, new = before[name], group[name]
        if new and not (old and old.interval == new.interval and old.burst == new.burst) then
            group.rates[index] = last_sequence or tonumber(call('HGET', META, 'sequence') or 0)
        end
        group.rates[index] = group.rates[index] or 0
    end
end

-- Sets some of what is stored of a group; returns whether that changed anything.
function limits.set(group, values)
    local rates, before = {}, group.rates and cmsgpack.pack(group.rates) or ''
    for index = 1, limits.CHANGED_QUEUE do
        rates[index] = group.rates and group.rates[index] or false
        if values[index] ~= nil then
            rates[index] = values[index]
        end
        rates.any = rates.any or rates[index]
    end
    rates[limits.PARTS] = values[limits.PARTS] or group.rates and group.rates[limits.PARTS] or 1
    for _, index in pairs(limits.SET_AT) do
        rates[index] = group.rates and group.rates[index] or 0
    end
    group.rates = rates.any and {unpack(rates)} or nil
    limits.read_changed(group)
    return before ~= (group.rates and cmsgpack.pack(group.rates) or '')
end

-- What is stored of a queue, nil where it has no limits.
function limits.stored_of_queue(queue)
    local packed = call('HGET', T .. ':rates', queue)
    return packed and cmsgpack.unpack(packed) or nil
end

function limits.of_queue(queue)
    return limits.stored_of_queue(queue) or {false, false, 1}
end

function limits.store_queue(queue, stored)
    if stored[1] or stored[2] then
        call('HSET', T .. ':rates', queue, cmsgpack.pack(stored))
    else
        call('HDEL', T .. ':rates', queue)
    end
end

-- What a group takes over from its queue.
function limits.inherit(group, stored)
    return limits.set(group, {[limits.QUEUE] = stored[1], [limits.CHANGED_QUEUE] = stored[2],
        [limits.PARTS] = (stored[1] or stored[2]) and stored[3] or nil})
end

-- Buckets. (Lua allows 200 locals in the open; these have a block of their own.)

do
    local tats, changed_tats = {}, {}

    function limits.queue_field(key)
        return 'q' .. key:match('^[^%z]*')
    end

    -- The tat of a bucket. If it is too far away, since a clock was set back or the limit was
    -- lowered, that is corrected: it must not put off the next token at every look.
    local function tat_of(field, limit)
        if not tats[field] then
            tats[field] = tonumber(call('HGET', T .. ':tats', field) or 0)
            local tat = gcra.clamped(tats[field], limit)
            if tat > 0 and tat ~= tats[field] then
                tats[field], changed_tats[field] = tat, true
            end
        end
        return tats[field]
    end

    local function set_tat(field, tat)
        tats[field], changed_tats[field] = tat, true
    end

    -- Calls a function for each limit of a group and of its queue.
    local function each_limit(group, visit)
        if group.limit then
            visit(group.gid, group.limit, 'limit')
        end
        if group.queue_limit then
            visit(limits.queue_field(group.key), group.queue_limit, 'queue_limit')
        end
    end

    -- When a claim took tokens of a limit as it is now.
    function limits.handed_out(group, name, claimed)
        local set_at = group.rates[limits.SET_AT[name]] or 0
        return gcra.handed_out(claimed.since, claimed.token, set_at)
    end

    function limits.is_limited(group)
        return group.limit or group.queue_limit or group.shard_limit
    end

    -- How many messages of a group may be claimed now, `most` at most.
    function limits.room(group, most)
        if not limits.is_limited(group) then
            return most
        end
        each_limit(group, function(field, limit)
            most = math.min(most, gcra.tokens(tat_of(field, limit), limit))
        end)
        return most
    end

    -- When the limits of a group and of its queue let a message pass: now, or later.
    function limits.token_at(group)
        local at = now
        if not limits.is_limited(group) then
            return at
        end
        each_limit(group, function(field, limit)
            at = math.max(at, gcra.token_at(tat_of(field, limit), limit))
        end)
        return at
    end

    function limits.spend(group, number)
        each_limit(group, function(field, limit)
            set_tat(field, gcra.spend(tat_of(field, limit), limit, number))
        end)
    end

    function limits.refund(group, claimed, number)
        each_limit(group, function(field, limit, name)
            local since = limits.handed_out(group, name, claimed)
            local tat = tat_of(field, limit)
            set_tat(field, gcra.refund(tat, limit, since, claimed.number, number))
        end)
    end

    -- Takes notice of a new limit.
    function limits.clamp(field, limit)
        set_tat(field, gcra.clamped(tonumber(call('HGET', T .. ':tats', field) or 0), limit))
    end

    function limits.store()
        for field in pairs(changed_tats) do
            if tats[field] > 0 then
                call('HSET', T .. ':tats', field, text(tats[field]))
            else
                call('HDEL', T .. ':tats', field)
            end
        end
        changed_tats = {}
    end
end
