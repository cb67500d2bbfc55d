-- Groups: a task of a queue, or the tasks of a common order. Each has a number, the gid.
--
-- T:groups       hash  key (queue NUL name) -> gid and what is declared, packed; if the queue was
--                      split also the first four of `T:epochs`, and if the queue is not open its
--                      gate (else false in place of those four), and its rate limits; if the
--                      queue is bounded, at 15 what `T:bounds` says of it; if batches have them,
--                      their minimum and lead (else false in place of all before)
-- T:names        hash  gid -> key
-- T:g:<gid>      hash  counters: waiting, delayed, running, lanes, and the totals
-- T:epochs       hash  queue that was split -> packed: epoch of its placement, phase of this
--                      container in the last split, number of partitions, index of this one,
--                      whether all that leaves it is known
-- include container
-- include gates
-- include limits
-- include bounds

-- LEAVING: the lanes of other partitions move away from here. CLOSED: they move here, and those
-- with a limit of claims wait until nothing of them is left where they were.
local SETTLED, LEAVING, CLOSED = 0, 1, 2

local groups, groups_by_key, touched_groups = {}, {}, {}
-- Where what only some groups have is packed.
local AT = {GATE = 13, RATES = 14, BOUNDS = 15, MINIMUM = 16, LEAD = 17}

local function load_group(key, packed)
    local group = {key = key, counts = {}, lanes = {}, changed_lanes = {}, turned = {}}
    local gid
    gid, group.size, group.within, group.bytes, group.concurrency, group.max_deliveries,
        group.members, group.declared, group.epoch, group.phase, group.partitions, group.index,
        group.gate, group.rates, group.bounds, group.minimum, group.lead =
        unpack(cmsgpack.unpack(packed), 1, AT.LEAD)
    group.gid, group.gate, group.bounds = gid, group.gate or OPEN, group.bounds or nil
    group.minimum, group.lead = group.minimum or 0, group.lead or 0
    group.rates = group.rates or nil
    limits.read(group)
    group.state_key = T .. ':s:' .. gid
    group.ready_key = T .. ':r:' .. gid
    group.filling_key = T .. ':f:' .. gid
    group.list_prefix = T .. ':l:' .. gid .. ':'
    group.back_prefix = T .. ':b:' .. gid .. ':'
    group.number = tonumber(gid)
    groups[gid], groups_by_key[key] = group, group
    touched_groups[#touched_groups + 1] = group
    return group
end

-- Whether a group has what only batches that wait to fill have.
local function is_patient(group)
    return group.minimum > 0 or group.lead > 0
end

local function store_policy(group)
    local policy = {group.gid, group.size, group.within, group.bytes, group.concurrency,
        group.max_deliveries, group.members, group.declared, group.epoch or nil,
        group.phase or nil, group.partitions or nil, group.index or nil}
    local patient = is_patient(group)
    local last = patient and AT.LEAD or group.bounds and AT.BOUNDS or group.rates and AT.RATES
        or group.gate ~= OPEN and AT.GATE or 0
    for index = #policy + 1, last do
        policy[index] = false
    end
    if last > 0 then
        policy[AT.GATE] = group.gate ~= OPEN and group.gate
        policy[AT.RATES] = group.rates or policy[AT.RATES]
        policy[AT.BOUNDS] = group.bounds or policy[AT.BOUNDS]
    end
    if patient then
        policy[AT.MINIMUM], policy[AT.LEAD] = group.minimum, group.lead
    end
    call('HSET', T .. ':groups', group.key, cmsgpack.pack(policy))
end

local function queue_of(key)
    return key:match('^[^%z]*')
end

local function split_of(queue)
    local packed = call('HGET', T .. ':epochs', queue)
    return packed and cmsgpack.unpack(packed) or {}
end

-- The group of a key, nil when nobody named it yet.
local function known_group(key)
    if groups_by_key[key] then
        return groups_by_key[key]
    end
    local packed = call('HGET', T .. ':groups', key)
    return packed and load_group(key, packed)
end

local function group_of(gid)
    return groups[gid] or known_group(call('HGET', T .. ':names', gid))
end

local made_group
do
    -- A number that is new; one whose keys another application has is passed over.
    local function new_gid()
        local gid, keys
        repeat
            gid, keys = text(call('HINCRBY', META, 'groups', 1)), {}
            for kind in ('gsrfpid'):gmatch('.') do
                keys[#keys + 1] = T .. ':' .. kind .. ':' .. gid
            end
        until call('EXISTS', unpack(keys)) == 0
        return gid
    end

    function made_group(key)
        local group = known_group(key)
        if not group then
            local gid = new_gid()
            call('HSET', T .. ':names', gid, key)
            local queue = queue_of(key)
            local epoch, phase, partitions, index = unpack(split_of(queue))
            group = load_group(key, cmsgpack.pack({gid, 1, 0, 0, 0, 3, {}, false, epoch, phase,
                partitions, index}))
            group.gate = gate_of(queue)
            limits.inherit(group, limits.of_queue(queue))
            bounds.join(group, queue)
            store_policy(group)
        end
        return group
    end
end

-- What a caller is to do whose placement has another epoch than this container.
local MOVED, TRY_AGAIN = 2, 3

local function epoch_conflict(key, told)
    local group = known_group(key)
    local epoch = group and group.epoch or not group and split_of(queue_of(key))[1] or 1
    return epoch > told and MOVED or epoch < told and TRY_AGAIN or nil
end

local function count(group, what, by)
    group.counts[what] = (group.counts[what] or 0) + by
end

local function store_counts()
    for _, group in ipairs(touched_groups) do
        for what, by in pairs(group.counts) do
            if by ~= 0 then
                call('HINCRBY', T .. ':g:' .. group.gid, what, by)
            end
        end
    end
end

local function has_member(group, task)
    for _, member in ipairs(group.members) do
        if member == task then
            return true
        end
    end
    return false
end

-- A worker knows a group when it knows all its members.
local function knows(members, group)
    for _, member in ipairs(group.members) do
        if not members[member] then
            return false
        end
    end
    return true
end

local function present(group)
    local found = call('HMGET', T .. ':g:' .. group.gid, 'waiting', 'delayed', 'running')
    return (found[1] or 0) + (found[2] or 0) + (found[3] or 0)
end
