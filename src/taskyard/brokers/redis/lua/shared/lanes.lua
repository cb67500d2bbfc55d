-- Lanes: their messages, their state, their places.
--
-- T:l:<gid>:<priority>:<shard>  list  entries of messages that were never lost, in order
-- T:b:<gid>:<priority>:<shard>  zset  entries that came back -> sequence
-- T:s:<gid>   hash  shard -> state; a lane of the plainest kind has none
-- T:r:<gid>   zset  shard -> priority * 2^42 + turn: ready
-- T:later     zset  gid (4 bytes) shard -> microseconds
-- T:f:<gid>   zset  shard -> microseconds: those of `later` that wait for a batch to fill
-- T:fading    zset  gid (4 bytes) shard -> microseconds: lanes of which nothing is left but that
--                   their rate limit is not as good as unused yet
-- T:p:<gid>   set   shards that are parked
-- T:o:<gid>   set   while closed: shards that are open nevertheless
-- T:w:<gid>   set   while closed: shards that wait for that
-- include groups
-- include moving
-- include rules
-- include entry

local LATER_KEY = T .. ':later'
local fading = {key = T .. ':fading'}

local news_ready, ready_order, news_time, time_order = {}, {}, {}, {}

-- Loading and storing

local function new_lane(group, shard, packed)
    local lane = {group = group, shard = shard, priorities = {0}, held = 0, blocked = 0,
        parked = false, bytes = -1, oldest = 0, back = {}, tat = 0, deadline = 0}
    if packed then
        lane.priorities, lane.held, lane.blocked, lane.parked, lane.bytes, lane.oldest,
            lane.back, lane.tat, lane.deadline = unpack(cmsgpack.unpack(packed))
        lane.stored, lane.tat, lane.deadline = true, lane.tat or 0, lane.deadline or 0
    end
    group.lanes[shard] = lane
    return lane
end

local function lane_of(group, shard)
    return group.lanes[shard]
        or new_lane(group, shard, call('HGET', group.state_key, shard))
end

-- Loads many lanes of a group by few calls; with `stored`, only those that have a state.
local function load_lanes(group, shards, stored)
    local missing = {}
    for _, shard in ipairs(shards) do
        if not group.lanes[shard] then
            missing[#missing + 1] = shard
        end
    end
    for first = 1, #missing, SPREAD do
        local last = math.min(first + SPREAD - 1, #missing)
        local found = call('HMGET', group.state_key, unpack(missing, first, last))
        for index = first, last do
            local packed = found[index - first + 1]
            if packed or not stored then
                new_lane(group, missing[index], packed)
            end
        end
    end
end

local function changed(lane)
    if not lane.changed then
        lane.changed = true
        local lanes = lane.group.changed_lanes
        lanes[#lanes + 1] = lane
    end
end

local function is_plain(lane)
    return #lane.priorities == 1 and lane.priorities[1] == 0 and lane.held == 0
        and lane.blocked == 0 and not lane.parked and #lane.back == 0 and lane.oldest == 0
        and lane.tat == 0 and lane.deadline == 0
end

local function store_lanes()
    for _, group in ipairs(touched_groups) do
        local kept, gone = {}, {}
        for _, lane in ipairs(group.changed_lanes) do
            if not is_plain(lane) then
                kept[#kept + 1] = lane.shard
                local state = {lane.priorities, lane.held, lane.blocked, lane.parked, lane.bytes,
                    lane.oldest, lane.back}
                if lane.tat > 0 or lane.deadline > 0 then
                    state[8], state[9] = lane.tat, lane.deadline > 0 and lane.deadline or nil
                end
                kept[#kept + 1] = cmsgpack.pack(state)
            elseif lane.stored then
                gone[#gone + 1] = lane.shard
            end
        end
        spread('HSET', group.state_key, kept, 2)
        spread('HDEL', group.state_key, gone)
    end
end

-- Messages

local function list_key(lane, priority)
    return lane.group.list_prefix .. priority .. ':' .. lane.shard
end

local function back_key(lane, priority)
    return lane.group.back_prefix .. priority .. ':' .. lane.shard
end

local function contains(values, wanted)
    for _, value in ipairs(values) do
        if value == wanted then
            return true
        end
    end
    return false
end

local function without(values, unwanted)
    local left = {}
    for _, value in ipairs(values) do
        if value ~= unwanted then
            left[#left + 1] = value
        end
    end
    return left
end

local function length_at(lane, priority)
    local length = call('LLEN', list_key(lane, priority))
    if contains(lane.back, priority) then
        length = length + call('ZCARD', back_key(lane, priority))
    end
    return length
end

local function waiting(lane)
    if not lane.waiting then
        lane.waiting = 0
        for _, priority in ipairs(lane.priorities) do
            lane.waiting = lane.waiting + length_at(lane, priority)
        end
    end
    return lane.waiting
end

-- The first entry of a priority, and whether it is one that came back.
local function head_at(lane, priority)
    local entry = call('LINDEX', list_key(lane, priority), 0)
    if contains(lane.back, priority) then
        local first = call('ZRANGE', back_key(lane, priority), 0, 0)[1]
        if first and (not entry or first:sub(1, 8) < entry:sub(1, 8)) then
            return first, true
        end
    end
    return entry, false
end

local function oldest_sequence(lane)
    local oldest = math.huge
    for _, priority in ipairs(lane.priorities) do
        local entry = head_at(lane, priority)
        if entry then
            oldest = math.min(oldest, entry_sequence(entry))
        end
    end
    return oldest
end

local function summed_bytes(lane)
    local sum = 0
    for _, priority in ipairs(lane.priorities) do
        for _, entry in ipairs(call('LRANGE', list_key(lane, priority), 0, -1)) do
            sum = sum + entry_body_size(entry)
        end
        if contains(lane.back, priority) then
            for _, entry in ipairs(call('ZRANGE', back_key(lane, priority), 0, -1)) do
                sum = sum + entry_body_size(entry)
            end
        end
    end
    return sum
end

local function add_priority(lane, priority)
    if waiting(lane) == 0 then
        lane.priorities = {priority}
        changed(lane)
    elseif not contains(lane.priorities, priority) then
        lane.priorities[#lane.priorities + 1] = priority
        table.sort(lane.priorities)
        changed(lane)
    end
end

-- Counts messages in, before they are stored. `expires`: microseconds that they may wait; nil: any
-- time.
local function count_in(lane, priority, sequence, number, size, expires)
    local group, before = lane.group, waiting(lane)
    if before == 0 and not lane.place then
        lane.place = lane.tat > 0 and FADING or NOWHERE
    end
    add_priority(lane, priority)
    if group.within > 0 then
        if before == 0 then
            lane.oldest, lane.bytes = sequence, size
        else
            if lane.oldest == 0 then
                lane.oldest = oldest_sequence(lane)
            end
            lane.oldest = math.min(lane.oldest, sequence)
            lane.bytes = lane.bytes < 0 and -1 or lane.bytes + size
        end
        if expires then -- the earliest; it stays until the lane is empty
            local at = sequence + expires
            lane.deadline = lane.deadline > 0 and math.min(lane.deadline, at) or at
        end
        changed(lane)
    elseif lane.oldest > sequence then
        lane.oldest = sequence
        changed(lane)
    end
    if before == 0 then
        count(group, 'lanes', 1)
    end
    lane.waiting = before + number
    count(group, 'waiting', number)
end

-- Appends entries that were never lost, later than all others here.
local function append(lane, priority, entries, sequence, size, expires)
    count_in(lane, priority, sequence, #entries, size, expires)
    spread('RPUSH', list_key(lane, priority), entries)
end

local function put_back(lane, priority, message)
    count_in(lane, priority, message.sequence, 1, #message.body, message.expires)
    if not contains(lane.back, priority) then
        lane.back[#lane.back + 1] = priority
        changed(lane)
    end
    call('ZADD', back_key(lane, priority), message.sequence, write_entry(message))
end

-- Places

local function note_ready(group)
    if not news_ready[group.gid] then
        news_ready[group.gid] = true
        ready_order[#ready_order + 1] = group
    end
end

local function note_time(group, at)
    if not news_time[group.gid] then
        time_order[#time_order + 1] = group
    end
    news_time[group.gid] = math.min(at, news_time[group.gid] or at)
end

-- Lanes that got a turn are added to `ready` together, before anybody looks there.
local function add_ready(group)
    if #group.turned > 0 then
        spread('ZADD', group.ready_key, group.turned, 2)
        group.turned = {}
    end
end

-- (Lua allows 200 locals in the open; what only this needs has a block of its own.)
local find_place, set_parked, note_leaving, know_batch, settle_down
do
    local TURNS = 2 ^ 42

    local function later_member(lane)
        return struct.pack('>I4', lane.group.number) .. lane.shard
    end

    -- Looks up where a lane is, as far as it is not known already.
    function find_place(lane)
        if lane.place then
            return
        end
        local group = lane.group
        add_ready(group)
        local score = call('ZSCORE', group.ready_key, lane.shard)
        if score then
            lane.place, lane.turn = READY, tonumber(score) % TURNS
        elseif call('ZSCORE', LATER_KEY, later_member(lane)) then
            lane.place = LATER
        elseif lane.tat > 0 and call('ZSCORE', fading.key, later_member(lane)) then
            lane.place = FADING
        else
            lane.place = NOWHERE
        end
    end

    local function leave_place(lane)
        if lane.place == READY and lane.turn then
            add_ready(lane.group)
            call('ZREM', lane.group.ready_key, lane.shard)
        elseif lane.place == LATER then
            call('ZREM', LATER_KEY, later_member(lane))
            call('ZREM', lane.group.filling_key, lane.shard)
        elseif lane.place == FADING then
            call('ZREM', fading.key, later_member(lane))
        end
        lane.turn = nil
    end

    local function make_ready(lane)
        local group = lane.group
        if not lane.turn then
            note_ready(group)
            lane.turn = next_turn()
        end
        local turned = group.turned
        turned[#turned + 1] = text(lane.priorities[1] * TURNS + lane.turn)
        turned[#turned + 1] = lane.shard
    end

    local function make_later(lane, at)
        local group = lane.group
        call('ZADD', LATER_KEY, at, later_member(lane))
        if held_up(lane, group) then
            call('ZREM', group.filling_key, lane.shard)
        else
            call('ZADD', group.filling_key, at, lane.shard)
            if group.gate == DRAINING then
                note_ready(group)
            end
        end
        note_time(group, at)
    end

    function set_parked(lane, parked)
        if lane.parked ~= parked then
            lane.parked = parked
            changed(lane)
            call(parked and 'SADD' or 'SREM', T .. ':p:' .. lane.group.gid, lane.shard)
        end
    end

    -- Whether a lane must wait, because something of it may be left where it was before a split.
    local function is_closed(lane)
        local group = lane.group
        if group.concurrency == 0
            or call('SISMEMBER', T .. ':o:' .. group.gid, lane.shard) == 1
        then
            return false
        end
        if lane.waiting > 0 then
            call('SADD', T .. ':w:' .. group.gid, lane.shard)
        end
        return true
    end

    -- Notes whether there is something of a lane that is to leave, and may. While a claim that can
    -- bring messages back is open, the lane keeps what holds them up.
    function note_leaving(lane)
        local stays = lane.held > 0 and (lane.parked or lane.blocked > 0)
        local moves = (lane.waiting > 0 or lane.parked or lane.tat > now) and not stays
        call(moves and 'SADD' or 'SREM', T .. ':m:' .. lane.group.gid, lane.shard)
    end

    -- Makes sure of what a lane of batches does not know since it was declared as one.
    function know_batch(lane)
        if lane.oldest == 0 then
            lane.oldest = oldest_sequence(lane)
            changed(lane)
        end
        if lane.bytes < 0 and lane.group.bytes > 0 and lane.waiting < lane.group.size then
            lane.bytes = summed_bytes(lane)
            changed(lane)
        end
    end

    -- Takes notice that the tokens of a lane come back with time.
    function limits.clamp_lane(lane)
        local tat = gcra.clamped(lane.tat, lane.group.shard_limit)
        if tat ~= lane.tat then
            lane.tat = tat
            changed(lane)
        end
    end

    -- Decides where a lane is now; whoever changed its state calls this.
    -- One that was claimed from has lost its turn, so it goes behind the others.
    function settle_down(lane)
        if waiting(lane) == 0 then
            if lane.oldest ~= 0 or lane.blocked ~= 0 or lane.priorities[1] ~= 0
                or lane.priorities[2] or lane.deadline ~= 0
            then
                changed(lane)
            end
            lane.priorities, lane.bytes, lane.oldest, lane.blocked = {0}, -1, 0, 0
            lane.deadline = 0
        elseif lane.group.within > 0 then
            know_batch(lane)
            -- A clock that was set back must not put off the end of a batch's patience at every
            -- look.
            if lane.oldest > now then
                lane.oldest = now
                changed(lane)
            end
        elseif lane.bytes >= 0 then -- it waited to fill before its group was declared anew
            lane.bytes = -1
            changed(lane)
        end
        find_place(lane)
        if lane.tat > 0 then
            limits.clamp_lane(lane)
        end
        local where, at = place(lane, lane.group)
        if lane.group.phase == CLOSED and is_closed(lane) then
            where = NOWHERE
        end
        if where ~= lane.place then
            leave_place(lane)
        end
        if where == READY then
            make_ready(lane)
        elseif where == LATER then
            make_later(lane, at)
        elseif where == FADING then
            call('ZADD', fading.key, at, later_member(lane))
        end
        lane.place = where
        if leaves(lane.group, lane.shard) then
            note_leaving(lane)
        end
        if where == FADING then
            fading.forget(2) -- more than come, so none pile up
        end
    end
end

-- Forgets lanes of which nothing is left, and whose time is over.
function fading.forget(limit)
    local members = call('ZRANGEBYSCORE', fading.key, '-inf', now, 'LIMIT', 0, limit)
    spread('ZREM', fading.key, members)
    for _, member in ipairs(members) do
        local lane = lane_of(group_of(text((struct.unpack('>I4', member)))), member:sub(5))
        if lane.place == FADING then
            lane.place = NOWHERE
        end
        settle_down(lane)
    end
end

-- Lets lanes whose time has come take their places.
local function promote_lanes(limit)
    local members = call('ZRANGEBYSCORE', LATER_KEY, '-inf', now, 'LIMIT', 0, limit)
    if #members == 0 then
        return
    end
    local lanes, shards = {}, {}
    for index, member in ipairs(members) do
        local gid = text((struct.unpack('>I4', member)))
        local shard = member:sub(5)
        lanes[index] = {gid, shard}
        shards[gid] = shards[gid] or {}
        table.insert(shards[gid], shard)
    end
    for gid, of_group in pairs(shards) do
        load_lanes(group_of(gid), of_group)
        spread('ZREM', groups[gid].filling_key, of_group)
    end
    spread('ZREM', LATER_KEY, members)
    for _, item in ipairs(lanes) do
        local lane = lane_of(groups[item[1]], item[2])
        lane.place = NOWHERE
        settle_down(lane)
    end
end
