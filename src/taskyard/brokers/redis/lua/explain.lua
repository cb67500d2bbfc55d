-- explain: find what keeps a message from running.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   id
--       5   how many messages that wait are looked at, where there is no record of the id; 0: none
--       6   bytes of them after which it is enough
-- Reply {now, number of a note that cancels the id or 0, 1 if all that waits was looked at and
--       nothing of it is on its way to another container, …}
--       and, if there is something,
--       group key, state as recorded or '', when it ended, failure (packed) or '', losses that it
--       is dead of, shard, priority, where it is (brokers/facts.py), when it is due or 0; and, if
--       it is somewhere,
--       attempts, losses, cap, members of the group, its policy {size, within, bytes, concurrency,
--       minimum, lead}, gate, rate limits packed (shared/limits.lua), number of partitions, tats of
--       the group and of its queue, the lane {waiting, bytes, oldest, held, blocked, 1 if parked,
--       tat, deadline}, first messages of its priorities {id, attempts, …}, messages in front of it
--       {priority, number, …}, shards that are served first, the claim that holds it {} or {owner,
--       token, deadline, lease, messages, 1 if told}, the claims of its lane likewise, if they are
--       limited
-- include due

local id, left, room = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local on_its_way -- whether there may be messages that are not where they are looked for
local FINAL = {done = true, dead = true, discarded = true, cancelled = true}
local LAST = 2 ^ 53
local CLAIMS = T .. ':claims' -- see shared/claims.lua

-- Finding it. What is found: group, shard, priority, where, message; due; token, header.

local function claim_key(token)
    return T .. ':c:' .. text(token)
end

-- How many of the sorted entries of a list come before a sequence.
local function number_before(key, sequence)
    local low, high = 0, call('LLEN', key)
    while low < high do
        local middle = math.floor((low + high) / 2)
        if entry_sequence(call('LINDEX', key, middle)) < sequence then
            low = middle + 1
        else
            high = middle
        end
    end
    return low
end

local function find_in_lane(group, record)
    local lane, priority = lane_of(group, record.shard), tonumber(record.priority)
    local key, sequence = list_key(lane, priority), tonumber(record.sequence)
    local entry = call('LINDEX', key, number_before(key, sequence))
    if not entry or entry_sequence(entry) ~= sequence then
        entry = call('ZRANGEBYSCORE', back_key(lane, priority), record.sequence, record.sequence,
            'LIMIT', 0, 1)[1]
    end
    return entry and {where = 'lane', message = read_entry(entry)}
end

-- Outside its lane; there, messages are sorted by time, then by sequence.
local function find_outside(record)
    local low = call('ZCOUNT', DUE_KEY, '-inf', '(' .. record.due)
    local high, sequence = low + call('ZCOUNT', DUE_KEY, record.due, record.due), -record.sequence
    while low < high do
        local middle = math.floor((low + high) / 2)
        local member = call('ZRANGE', DUE_KEY, middle, middle)[1]
        if entry_sequence(member) == sequence then
            local _, _, _, entry = read_due(member)
            return {where = 'outside', message = read_entry(entry), due = tonumber(record.due)}
        elseif entry_sequence(member) < sequence then
            low = middle + 1
        else
            high = middle
        end
    end
end

-- Looks at open claims, of one group or of all: `shard`: only at what they hold of it. Visits with
-- entry, priority, shard, token, header until that returns something.
local function visit_claims(group, shard, visit)
    for _, token in ipairs(call('ZRANGE', CLAIMS, 0, -1)) do
        local packed = call('LINDEX', claim_key(tonumber(token)), 0)
        local header = packed and cmsgpack.unpack(packed)
        local index = 1
        for _, part in ipairs(header and (not group or header[1] == group.key) and header[5] or {})
        do
            for position = 3, #part, 2 do
                local number = part[position + 1]
                if not shard or part[1] == shard then
                    for _, entry in ipairs(call('LRANGE', claim_key(tonumber(token)), index,
                        index + number - 1))
                    do
                        local found = visit(entry, part[position], part[1], tonumber(token), header)
                        if found then
                            return found
                        end
                    end
                end
                index = index + number
            end
        end
    end
end

local function find_recorded(group, record)
    local sequence = tonumber(record.sequence)
    if sequence == 0 then
        return {where = 'away'}
    end
    local found
    if sequence < 0 then
        found = find_outside(record)
    else
        found = find_in_lane(group, record) or visit_claims(group, record.shard,
            function(entry, _, _, token, header)
                return entry_sequence(entry) == sequence
                    and {where = 'claim', message = read_entry(entry), token = token,
                        header = header}
            end)
    end
    return found or {where = leaves(group, record.shard) and 'away' or 'nowhere'}
end

-- The same without a record

local function is_enough()
    return left <= 0 or room <= 0
end

-- The id in an entry, which is not copied for it.
local function id_of(entry)
    return body_id(entry, entry_head_size(entry) + 1)
end

-- Looks at messages; `id_in` gives the id of a member, `found` makes of it what is found.
local function look_through(members, id_in, found)
    for _, member in ipairs(members) do
        if is_enough() then
            return
        end
        left, room = left - 1, room - #member
        if id_in(member) == id then
            return found(member)
        end
    end
end

local PAGE = 100

local function search_pages(command, key, id_in, found)
    local first, members = 0, nil
    repeat
        members = call(command, key, first, first + PAGE - 1)
        local it = look_through(members, id_in, found)
        if it then
            return it
        end
        first = first + PAGE
    until #members < PAGE or is_enough()
end

local function search_lane(group, shard)
    local lane = lane_of(group, shard)
    for _, priority in ipairs(lane.priorities) do
        local function found(entry)
            return {group = group, shard = shard, priority = priority, where = 'lane',
                message = read_entry(entry)}
        end
        local it = search_pages('LRANGE', list_key(lane, priority), id_of, found)
            or contains(lane.back, priority)
            and search_pages('ZRANGE', back_key(lane, priority), id_of, found)
        if it then
            return it
        end
    end
end

-- Lanes that wait until nothing of them is left where they were before a split.
local function search_closed(group)
    local cursor, shards = '0', nil
    repeat
        cursor, shards = unpack(call('SSCAN', T .. ':w:' .. group.gid, cursor, 'COUNT', PAGE))
        for _, shard in ipairs(shards) do
            local it = search_lane(group, shard)
            if it or is_enough() then
                return it
            end
        end
    until cursor == '0'
end

-- Those that are ready, and those with a state of their own; some are both.
local function search_lanes(group)
    local first, shards, cursor, found = 0, nil, '0', nil
    on_its_way = on_its_way or group.phase == LEAVING
    repeat
        shards = call('ZRANGE', group.ready_key, first, first + PAGE - 1)
        for _, shard in ipairs(shards) do
            local it = search_lane(group, shard)
            if it or is_enough() then
                return it
            end
        end
        first = first + PAGE
    until #shards < PAGE
    repeat
        cursor, found = unpack(call('HSCAN', group.state_key, cursor, 'COUNT', PAGE))
        for index = 1, #found, 2 do
            left = left - 1 -- it may be empty
            local it = not call('ZSCORE', group.ready_key, found[index])
                and search_lane(group, found[index])
            if it or is_enough() then
                return it
            end
        end
    until cursor == '0'
    return group.phase == CLOSED and search_closed(group) or nil
end

local function search_due()
    local function id_in(member)
        local _, _, _, entry = read_due(member)
        return id_of(entry)
    end
    return search_pages('ZRANGE', DUE_KEY, id_in, function(member)
        local gid, priority, shard, entry = read_due(member)
        return {group = group_of(gid), shard = shard, priority = priority, where = 'outside',
            due = tonumber(call('ZSCORE', DUE_KEY, member)), message = read_entry(entry)}
    end)
end

local function find_unrecorded()
    local it = visit_claims(nil, nil, function(entry, priority, shard, token, header)
        return id_of(entry) == id
            and {where = 'claim', group = known_group(header[1]), shard = shard,
                priority = priority, message = read_entry(entry), token = token, header = header}
    end)
    if it or is_enough() then
        return it
    end
    for _, gid in ipairs(call('HKEYS', T .. ':names')) do
        it = search_lanes(group_of(gid))
        if it or is_enough() then
            return it
        end
    end
    return search_due()
end

-- What there is around it

local function describe_claim(token, header)
    local lease, deadline = header[3], call('ZSCORE', CLAIMS, text(token))
    return {header[2], token, tonumber(deadline or now), lease, header[4]}
end

local function describe_holder(it)
    if not it.token then
        return {}
    end
    local holder, told = describe_claim(it.token, it.header), it.header[8]
    holder[6] = told and contains(told, it.message.sequence) and 1 or 0
    return holder
end

local function holders_of(group, shard)
    local holders, last = {}, nil
    if group.concurrency > 0 then
        visit_claims(group, shard, function(_, _, _, token, header)
            if token ~= last then
                holders[#holders + 1], last = describe_claim(token, header), token
            end
        end)
    end
    table.sort(holders, function(one, other) return one[2] < other[2] end)
    return holders
end

local function describe_lane(lane)
    local number = waiting(lane)
    if number > 0 and lane.group.within > 0 then
        know_batch(lane)
    end
    return {number, lane.bytes, lane.oldest, lane.held, lane.blocked, lane.parked and 1 or 0,
        lane.tat, lane.deadline}
end

local function heads_of(lane)
    local heads = {}
    for _, priority in ipairs(lane.priorities) do
        local entry = head_at(lane, priority)
        if entry then
            local message = read_entry(entry)
            heads[#heads + 1] = body_id(message.body)
            heads[#heads + 1] = message.attempts
        end
    end
    return heads
end

-- What is not in its lane yet joins its tail.
local function ahead_of(lane, it)
    local ahead = {}
    local sequence = it.where == 'outside' and LAST or it.message.sequence
    for _, priority in ipairs(lane.priorities) do
        if priority < it.priority then
            ahead[#ahead + 1] = priority
            ahead[#ahead + 1] = length_at(lane, priority)
        elseif priority == it.priority then
            ahead[#ahead + 1] = priority
            ahead[#ahead + 1] = number_before(list_key(lane, priority), sequence)
                + call('ZCOUNT', back_key(lane, priority), '-inf', '(' .. text(sequence))
        end
    end
    return ahead
end

-- Whether a lane waits until nothing of it is left where it was before a split.
local function is_closed_lane(group, shard)
    return group.phase == CLOSED and group.concurrency > 0
        and call('SISMEMBER', T .. ':o:' .. group.gid, shard) == 0
end

local function describe(it)
    local group, message = it.group, it.message
    local lane = lane_of(group, it.shard)
    local tats = call('HMGET', T .. ':tats', group.gid, limits.queue_field(group.key))
    local score = call('ZSCORE', group.ready_key, it.shard)
    local rank = score and call('ZCOUNT', group.ready_key, '-inf', '(' .. score)
    return message.attempts, message.losses, message.cap, group.members,
        {group.size, group.within, group.bytes, group.concurrency, group.minimum, group.lead},
        group.gate, cmsgpack.pack(group.rates or {}),
        group.rates and (group.partitions or group.rates[limits.PARTS]) or 1,
        {tonumber(tats[1] or 0), tonumber(tats[2] or 0)}, describe_lane(lane), heads_of(lane),
        ahead_of(lane, it), rank or 0, describe_holder(it), holders_of(group, it.shard)
end

local function found()
    if not has_record(id) then
        return find_unrecorded(), {}
    end
    local record, fields = {}, call('HGETALL', record_key(id))
    for index = 1, #fields, 2 do
        record[fields[index]] = fields[index + 1]
    end
    local group = group_of(record.gid)
    local it = FINAL[record.state] and {where = 'nowhere'} or find_recorded(group, record)
    it.group, it.shard, it.priority = group, record.shard, tonumber(record.priority)
    return it, record
end

local it, record = found()
if it and it.where == 'lane' and is_closed_lane(it.group, it.shard) then
    it.where = 'away'
end
local note = tonumber(call('ZSCORE', NOTES, id) or 0)
if note + NOTED <= now or it and it.message and it.message.sequence >= note then
    note = 0
end
local searched = (is_enough() or on_its_way) and 0 or 1
if not it then
    return {now, note, searched}
end
local ended = tonumber(record.expires or 0)
local head = {now, note, searched, it.group.key, record.state or '',
    ended > 0 and ended - record.ttl or 0, record.failure or '', tonumber(record.losses or 0),
    it.shard, it.priority, it.where, it.due or 0}
if it.message then
    for _, value in ipairs({describe(it)}) do
        head[#head + 1] = value
    end
end
return head
