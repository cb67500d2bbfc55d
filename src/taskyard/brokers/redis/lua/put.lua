-- put: store messages, all or none.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   packed: for each lane and priority an array of
--           group key, shard, priority, delay, due, number of bodies, record_ttl, member, ids,
--           epoch of the placement that the caller knows (by default 1), whether he knows it from
--           an earlier call, and of messages with unique keys {letter of their mode, span, longest,
--           key…} (see shared/unique.lua; span and longest: microseconds of a window, or by which
--           a debounced message is put off), else false; microseconds that each may wait in its
--           lane, if these messages have such a time
--           (delay, due and record_ttl in microseconds; due 0: use the delay; ids {} without
--           records).
--           Several that differ only in their shard, and have no delay, records or unique keys,
--           may be one: {shard, number of bodies, …} in place of the shard, and their sum.
--           For a lot, which is stored once, in front of them: source, number of the lot, number
--           of dead letters, how many a group keeps, and true where an id that has a record, or a
--           queue that is draining, is the answer to this lot for good (by default it may come
--           again)
--       5…  the bodies, in order; then for each dead letter five: key of its group, shard,
--           task, failure (packed), body
-- Reply  1: stored; or, where nothing was stored,
--        2: shards of the queue moved away; 3: not all of its containers know of that yet;
--        5: a group is new here, so a placement known from earlier may be out of date
--        {4, queue}: that queue is draining
--        {6, packed}: stored, but for what unique keys kept back. Of each item that has some a
--           list: index (from 0) of a message that found its key held, the id that stands, …
--        {7 or 8, queue, shard, 1 if it is the shard (0: it is the queue), number, limit, length
--        and overflow and timeout of the queue's bounds}: 7: it has that number of messages and no
--        room for more; 8: the number comes to it at once, and that is never possible
--        a string: an id that has a record already
-- include container
-- include fresh
-- include opening
-- include gates

local STANDING = 6

local saved = remembered()
if saved then
    return saved == '' and 1 or {STANDING, saved}
end

local puts = cmsgpack.unpack(ARGV[4])

-- One by one into a lane that has messages already, and needs nothing but the message, and at most
-- a record: most of what small programs do. It runs before the rest of this script is even set up.

-- Whether an item is one of several shards.
local function is_spread(item)
    return type(item[2]) == 'table'
end

local function is_plain_put(item)
    return item[6] == 1 and item[3] == 0 and item[4] == 0 and item[5] == 0 and item[8] == ''
        and #item[9] <= 1 and not item[12] and not item[13] and not is_spread(item)
end

if #puts == 1 and is_plain_put(puts[1]) then
    local key, shard, id = puts[1][1], puts[1][2], puts[1][9][1]
    local packed = call('HGET', T .. ':groups', key)
    local gid, _, within, _, _, _, _, _, epoch, _, _, _, gate, _, bounded =
        unpack(packed and cmsgpack.unpack(packed) or {})
    if within == 0 and gate ~= DRAINING and not bounded and (epoch or 1) == (puts[1][10] or 1)
        and call('HEXISTS', T .. ':s:' .. gid, shard) == 0
        and not (id and call('EXISTS', record_key(id)) == 1)
    then
        local last = call('HMGET', META, 'sequence')[1] or 0
        local sequence = math.max(tonumber(last) + 1, now)
        local entry = fresh_entry(sequence, id ~= nil, ARGV[5])
        if call('RPUSHX', T .. ':l:' .. gid .. ':0:' .. shard, entry) > 0 then
            call('HINCRBY', T .. ':g:' .. gid, 'put', 1)
            call('HINCRBY', T .. ':g:' .. gid, 'waiting', 1)
            local number = text(sequence) -- as texts, numbers cost less in calls
            if id then
                write_record(id, gid, shard, '0', puts[1][7], 'waiting',
                    sequence == now and number or now, number)
            end
            call('HSET', META, 'sequence', number)
            remember('')
            return 1
        end
    end
end

-- include room
-- include admission

local NOT_NOW, UNSURE = 4, 5

-- A lot is stored once. What it does not become, goes to the dead letters with it.
--
-- T:transfers  hash  source -> number of its last lot; if that was refused for good, also a space
--                     and the id that has a record; or `!`: its queue was draining; or `#` and
--                     packed what was replied: it was full
local lot = puts[1] and #puts[1] < 6 and table.remove(puts, 1)

-- What was answered to this lot, nil if it is new.
local function answered()
    local last = call('HGET', T .. ':transfers', lot[1])
    local number = last and tonumber(last:match('^%d+')) or 0
    local refusal = number == lot[2] and last:match('^%d+([ !#].*)')
    if refusal == '!' then
        return {NOT_NOW, queue_of(puts[1][1])}
    elseif refusal and refusal:sub(1, 1) == '#' then
        return cmsgpack.unpack(refusal:sub(2))
    elseif refusal then
        return refusal:sub(2)
    end
    return number >= lot[2] and 1 or nil
end

-- Says what is wrong with the puts; for good, if the lot wants that.
local function refused(reply, why)
    if lot and lot[5] then
        call('HSET', T .. ':transfers', lot[1], text(lot[2]) .. why)
    end
    return reply
end

local answer = lot and answered()
if answer then
    return answer
end

do
    local conflicts = {}
    for _, item in ipairs(puts) do
        conflicts[epoch_conflict(item[1], item[10] or 1) or 0] = true
        conflicts[item[11] and not known_group(item[1]) and UNSURE or 0] = true
    end
    for _, conflict in ipairs({UNSURE, MOVED, TRY_AGAIN}) do
        if conflicts[conflict] then
            return conflict
        end
    end
end

for _, item in ipairs(puts) do
    local group = known_group(item[1])
    local gate = group and group.gate or gate_of(queue_of(item[1]))
    if gate == DRAINING and item[6] > 0 then
        return refused({NOT_NOW, queue_of(item[1])}, '!')
    end
end

local told, given = {}, 4
for _, item in ipairs(puts) do
    local number = item[6]
    if item[12] then
        told[#told + 1] = admission.admit(item, given)
    end
    given = given + number
end

-- What may be refused for its shard is looked at shard by shard.
do
    local function apart(item)
        local items = {}
        for index = 1, #item[2], 2 do
            local own = {unpack(item)}
            own[2], own[6] = item[2][index], item[2][index + 1]
            items[#items + 1] = own
        end
        return items
    end

    for index = #puts, 1, -1 do
        local group = known_group(puts[index][1])
        if is_spread(puts[index]) and (not group or group.bounds) then
            for position, item in ipairs(apart(table.remove(puts, index))) do
                table.insert(puts, index + position - 1, item)
            end
        end
    end
end

-- What unique keys keep back needs no room.
local full, drops = room.check(puts, lot)
if full then
    return refused(full, '#' .. cmsgpack.pack(full))
end

do
    local ids = {}
    for _, item in ipairs(puts) do
        for _, id in ipairs(item[9]) do
            if ids[id] or has_record(id) then
                return refused(id, ' ' .. id)
            end
            ids[id] = true
        end
    end
end

if drops then
    room.make(drops)
end

local body = 4
local touched, is_touched, shards = {}, {}, {}

local function touch(lane)
    if not is_touched[lane] then
        is_touched[lane] = true
        touched[#touched + 1] = lane
    end
end

local put_item
do
    local function put_later(group, item, due, first, mode, keys)
        local recorded, bodies = #item[9] > 0, item.bodies
        for index = 0, item[6] - 1 do
            local sequence = first + index
            delay(group, item[2], item[3], due, {sequence = sequence, since = sequence,
                deliveries = 0, attempts = 0, losses = 0, cap = 0, recorded = recorded,
                mark = keys[index + 1] and mode .. keys[index + 1], expires = item[13],
                body = bodies and bodies[index + 1] or ARGV[body + 1 + index]})
        end
    end

    local function is_special(lane)
        return lane.waiting or lane.priorities[2] or lane.back[1] or lane.priorities[1] ~= 0
            or lane.tat > 0
    end

    -- Adds entries to a lane. One that has no state was not loaded: mostly there are messages in
    -- it, so that nothing is new but these.
    local function add(group, shard, priority, entries, first, size, expires)
        local lane = group.lanes[shard]
        if group.within > 0 or priority ~= 0 or lane and is_special(lane) or #entries > SPREAD then
            lane = lane or new_lane(group, shard)
            local highest = lane.priorities[1]
            append(lane, priority, entries, first, size, expires)
            if lane.waiting == #entries or group.within > 0 or lane.blocked > 0 or lane.tat > 0
                or lane.priorities[1] ~= highest
            then
                touch(lane)
            end
            return
        end
        -- The plainest case: one call says how much there was before.
        local length = call('RPUSH', group.list_prefix .. '0:' .. shard, unpack(entries))
        count(group, 'waiting', #entries)
        if length == #entries then
            count(group, 'lanes', 1)
            lane = lane or new_lane(group, shard)
            lane.place = lane.place or NOWHERE
        end
        if lane then
            lane.waiting = length
            if length == #entries or lane.blocked > 0 then
                touch(lane)
            end
        end
    end

    local function put_now(group, item, first, mode, keys)
        local recorded, size, entries, bodies = #item[9] > 0, 0, {}, item.bodies
        for index = 0, item[6] - 1 do
            local text_of = bodies and bodies[index + 1] or ARGV[body + 1 + index]
            size = size + #text_of
            entries[index + 1] = fresh_entry(first + index, recorded, text_of, keys[index + 1],
                mode, item[13])
        end
        add(group, item[2], item[3], entries, first, size, item[13])
    end

    local function put_spread(group, item)
        local parts, sequence, at = item[2], sequences(item[6]), body
        for part = 1, #parts, 2 do
            local entries, first, size = {}, sequence, 0
            for index = 1, parts[part + 1] do
                local text_of = ARGV[at + index]
                entries[index], size = fresh_entry(sequence, false, text_of), size + #text_of
                sequence = sequence + 1
            end
            at = at + #entries
            if entries[1] then
                add(group, parts[part], item[3], entries, first, size)
            end
        end
    end

    local function put_off(group, item)
        for index = 1, item[6] do
            local id = item[9][index]
            local due, sequence = admission.debounce(group, item, index, id ~= nil)
            if id then
                write_record(id, group.gid, item[2], item[3], item[7],
                    due > now and 'delayed' or 'waiting', due, -sequence)
            end
        end
    end

    local function open_records(group, item, later, due, first)
        local state, ttl, priority = later and 'delayed' or 'waiting', text(item[7]), text(item[3])
        for index, id in ipairs(item[9]) do
            local sequence = first + index - 1
            write_record(id, group.gid, item[2], priority, ttl, state, due,
                text(later and -sequence or sequence))
        end
    end

    function put_item(item)
        local group, number = made_group(item[1]), item[6]
        local due = item[5] > 0 and item[5] or now + item[4]
        if item[8] ~= '' and not has_member(group, item[8]) then
            table.insert(group.members, item[8])
            store_policy(group)
        end
        count(group, 'put', number)
        if item[12] and item[12][1] == unique.DEBOUNCED then
            put_off(group, item)
        elseif is_spread(item) then
            put_spread(group, item)
        elseif number > 0 then
            local first, later = sequences(number), due > now
            local mode, keys = '', {}
            if item[12] then
                mode, keys = admission.hold(group, item)
            end
            if later then
                put_later(group, item, due, first, mode, keys)
            else
                put_now(group, item, first, mode, keys)
            end
            if item[9][1] then
                open_records(group, item, later, text(due), first)
            end
        end
        body = body + (item.given or number)
    end
end

local function put_dead(key, shard, task, failure, letter)
    local group, first = made_group(key), sequences(1)
    count(group, 'put', 1)
    bury(group, shard, 0, {since = first, deliveries = 0, attempts = 0, body = letter}, failure, 0,
        '', task, lot[4])
end

-- The lanes of one group are loaded together.
local order = {}
for _, item in ipairs(puts) do
    local group = made_group(item[1])
    if not shards[group] then
        shards[group] = {}
        order[#order + 1] = group
    end
    if is_spread(item) then
        for index = 1, #item[2], 2 do
            table.insert(shards[group], item[2][index])
        end
    else
        table.insert(shards[group], item[2])
    end
end
for _, group in ipairs(order) do
    load_lanes(group, shards[group], true)
end

for _, item in ipairs(puts) do
    put_item(item)
end
for _, lane in ipairs(touched) do
    settle_down(lane)
end

if lot then
    for index = body + 1, body + 5 * lot[3], 5 do
        put_dead(unpack(ARGV, index, index + 4))
    end
    call('HSET', T .. ':transfers', lot[1], text(lot[2]))
end
store()
-- Nobody asks what became of a lot, in detail.
local answer_to = #told > 0 and not lot and cmsgpack.pack(told) or ''
remember(answer_to)
return answer_to == '' and 1 or {STANDING, answer_to}
