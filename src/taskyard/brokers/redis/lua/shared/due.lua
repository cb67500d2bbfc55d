-- Messages that enter their lane later: delayed ones, and the back-off of those without order.
--
-- T:due  zset  sequence (8 bytes) gid (4) priority (2) length of shard (2), shard, and what
--               follows the sequence in its entry -> time
-- include notes

local DUE_KEY = T .. ':due'

-- Returns the member of the set.
local function delay(group, shard, priority, due, message)
    local away = leaves(group, shard)
    local key = away and away_key(group) or DUE_KEY
    local head = struct.pack('>I8I4i2I2', message.sequence, group.number, priority, #shard)
    local member = head .. shard .. write_entry(message):sub(9)
    call('ZADD', key, due, member)
    count(group, 'delayed', 1)
    if not away then
        note_time(group, due)
    end
    return member
end

local function enter(group, shard, priority, message)
    count(group, 'delayed', -1)
    if notes.means(message) then
        notes.stop(group, shard, message)
        return
    end
    message.sequence = sequences(1)
    if message.mark and message.mark:sub(1, 1) == unique.DEBOUNCED then
        unique.release_of(group, shard, message)
        message.mark = nil
    end
    if message.deliveries == 0 then -- it was never in its lane
        message.since = message.sequence
    end
    local lane = lane_of(group, shard)
    if message.losses > 0 then
        put_back(lane, priority, message)
    else
        append(lane, priority, {write_entry(message)}, message.sequence, #message.body,
            message.expires)
    end
    if message.recorded then
        locate_record(body_id(message.body), message.sequence)
    end
    settle_down(lane)
end

-- What a member of the set is made of: gid, priority, shard, entry.
local function read_due(member)
    local _, gid, priority, length, first = struct.unpack('>I8I4i2I2', member)
    return text(gid), priority, member:sub(first, first + length - 1),
        member:sub(1, 8) .. member:sub(first + length)
end

-- Lets messages whose time has come join their lanes.
local function promote_messages(limit)
    local members = call('ZRANGEBYSCORE', DUE_KEY, '-inf', now, 'LIMIT', 0, limit)
    spread('ZREM', DUE_KEY, members)
    for _, member in ipairs(members) do
        local gid, priority, shard, entry = read_due(member)
        local group = group_of(gid)
        if leaves(group, shard) then
            call('ZADD', away_key(group), now, member)
        else
            enter(group, shard, priority, read_entry(entry))
        end
    end
end

-- The first of two times, of which 0 is none.
local function earliest(one, other)
    return one > 0 and other > 0 and math.min(one, other) or math.max(one, other)
end

-- When something becomes eligible; 0: nothing does.
local function next_at()
    local due = call('ZRANGE', DUE_KEY, 0, 0, 'WITHSCORES')[2]
    local later = call('ZRANGE', LATER_KEY, 0, 0, 'WITHSCORES')[2]
    return earliest(tonumber(due or 0), tonumber(later or 0))
end
