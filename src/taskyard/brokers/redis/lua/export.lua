-- export: take some of what leaves a container: messages from the tails of their lanes, so that
-- whoever claims there goes on with the heads. It stays on its way until it is `cleared`.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   queue
--       5   epoch of the split
--       6   how many things at most
--       7   bytes after which it is enough
-- Reply {0}: nothing is left, and nothing will be
--       {1, number, how many, things}: what is on its way, packed; the same until it is cleared
--       {2, open claims that can bring something back}: nothing can be taken now
--
-- A thing is one of
--   'm', group key, shard, priority, entry, record: a message of a lane
--   'd', group key, shard, priority, entry, record, due, first: one outside its lane; first: when
--        the first was put of those that it replaced, if it is debounced (shared/unique.lua)
--   's', group key, shard, parked, blocked, tat if its rate is limited: what holds up a lane whose
--       last message left
--   'x', group key, letter, record: a dead letter
--   'u', group key, shard, mark, id: the unique key of a message that does not hold it any more
-- where a record is false or what HGETALL gives.
-- include letters

local queue = ARGV[4]
local split, slot = split_of(queue), T .. ':slot:' .. queue

-- Who is late, and still at an earlier split, would carry it to the wrong container.
if split[1] ~= tonumber(ARGV[5]) or split[2] ~= LEAVING then
    return {0}
end
local under_way = call('GET', slot)
if under_way then
    local number, things = unpack(cmsgpack.unpack(under_way))
    return {1, number, #things, under_way}
end

local things, room, bytes = {}, tonumber(ARGV[6]), tonumber(ARGV[7])

local function is_full()
    return room <= 0 or bytes <= 0
end

local function add(thing, size)
    things[#things + 1] = thing
    room, bytes = room - 1, bytes - size
end

-- It can be looked up here until it is cleared; as that of a message outside its lane.
local function record_of(id)
    local fields = id ~= '' and call('HGETALL', record_key(id)) or {}
    if not fields[1] then
        return false
    end
    call('HSET', record_key(id), 'sequence', 0)
    return fields
end

local function tail_at(lane, priority)
    local entry = call('LINDEX', list_key(lane, priority), -1)
    if contains(lane.back, priority) then
        local last = call('ZRANGE', back_key(lane, priority), -1, -1)[1]
        if last and (not entry or last:sub(1, 8) > entry:sub(1, 8)) then
            return last, true
        end
    end
    return entry, false
end

local function take_tail(lane, priority)
    while not is_full() do
        local entry, came_back = tail_at(lane, priority)
        if not entry then
            return
        elseif came_back then
            call('ZREM', back_key(lane, priority), entry)
        else
            call('RPOP', list_key(lane, priority))
        end
        lane.waiting = lane.waiting - 1
        local message = read_entry(entry)
        if notes.means(message) then -- the notes themselves stay here
            count(lane.group, 'waiting', -1)
            notes.stop(lane.group, lane.shard, message)
        else
            unique.leave(lane.group, lane.shard, message)
            add({'m', lane.group.key, lane.shard, priority, entry,
                message.recorded and record_of(body_id(message.body))}, #entry)
        end
    end
end

local function forget_priority(lane, priority)
    if call('EXISTS', back_key(lane, priority)) == 0 then
        lane.back = without(lane.back, priority)
    end
    if lane.priorities[2] and length_at(lane, priority) == 0 then
        lane.priorities = without(lane.priorities, priority)
    end
end

local function take_lane(lane)
    local before = waiting(lane)
    find_place(lane)
    local priorities = {unpack(lane.priorities)}
    for index = #priorities, 1, -1 do
        take_tail(lane, priorities[index])
        forget_priority(lane, priorities[index])
    end
    lane.oldest, lane.bytes = 0, -1
    changed(lane)
    if lane.waiting == 0 then
        if before > 0 then
            count(lane.group, 'lanes', -1)
        end
        if lane.parked or lane.blocked > 0 or lane.tat > now then
            add({'s', lane.group.key, lane.shard, lane.parked, lane.blocked,
                lane.tat > now and lane.tat or nil}, 0)
        end
        lane.tat = 0
        set_parked(lane, false)
    end
    settle_down(lane)
end

local function take_lanes(group)
    while not is_full() do
        local shard = call('SRANDMEMBER', T .. ':m:' .. group.gid)
        if not shard then
            return
        end
        take_lane(lane_of(group, shard))
    end
end

local function take_away()
    local key = T .. ':away:' .. queue
    local found = is_full() and {} or call('ZRANGE', key, 0, room - 1, 'WITHSCORES')
    for index = 1, #found, 2 do
        if is_full() then
            return
        end
        local gid, priority, shard, entry = read_due(found[index])
        local message = read_entry(entry)
        call('ZREM', key, found[index])
        if notes.means(message) then
            count(group_of(gid), 'delayed', -1)
            notes.stop(group_of(gid), shard, message)
        else
            add({'d', group_of(gid).key, shard, priority, entry,
                message.recorded and record_of(body_id(message.body)), tonumber(found[index + 1]),
                unique.leave(group_of(gid), shard, message)}, #entry)
        end
    end
end

local function take_letters(group)
    local numbers = is_full() and {} or call('ZRANGE', T .. ':x:' .. group.gid, 0, room - 1)
    for _, number in ipairs(numbers) do
        if is_full() then
            return
        end
        local letter = cmsgpack.unpack(call('HGET', LETTERS, number))
        drop_letter(group.gid, number)
        add({'x', group.key, letter, record_of(letter[5])}, #letter[12])
    end
end

local function take_releases()
    local key = unique.gone_key(queue)
    for _, packed in ipairs(not is_full() and call('LPOP', key, math.min(room, SPREAD)) or {}) do
        add({'u', unpack(cmsgpack.unpack(packed))}, #packed)
    end
end

-- All there are, once it is known what leaves.
local function open_claims()
    return call('SCARD', T .. ':back:' .. queue)
end

local function is_anything_left(here)
    local keys = {T .. ':away:' .. queue, unique.gone_key(queue)}
    for _, group in ipairs(here) do
        keys[#keys + 1] = T .. ':m:' .. group.gid
        keys[#keys + 1] = T .. ':x:' .. group.gid
    end
    for _, key in ipairs(keys) do
        if call('EXISTS', key) == 1 then
            return true
        end
    end
    return not split[5]
end

local here = groups_of(queue)
for _, group in ipairs(here) do
    take_lanes(group)
end
take_away()
for _, group in ipairs(here) do
    take_letters(group)
end
take_releases()

-- A clock value: it rises even if a server that took over has not heard of the last ones.
local number = sequences(1)
store()
if #things > 0 then
    local packed = cmsgpack.pack({number, things})
    call('SET', slot, packed)
    return {1, number, #things, packed}
end
local claims = open_claims()
if claims > 0 or is_anything_left(here) then
    return {2, claims}
end
split[2] = SETTLED
store_split(queue, split)
return {0}
