-- records: look up what is remembered of messages.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   a listener to wake when one that is not final becomes so, or ''
--       5…  ids
-- Reply per id 0, or {group key, state, result or false, failure (packed) or false, losses,
--       what its handler told or false, when}
-- include records

-- Of somebody who asks again and again under new names, the oldest are forgotten.
local MOST_WAITERS = 50

local FINAL = {done = true, dead = true, discarded = true, cancelled = true}

local function is_in_lane(group, record)
    local lane = new_lane(group, record.shard)
    local first = call('LINDEX', list_key(lane, record.priority), 0)
    if first and entry_sequence(first) <= tonumber(record.sequence) then
        return true
    end
    local back = back_key(lane, record.priority)
    return #call('ZRANGEBYSCORE', back, record.sequence, record.sequence, 'LIMIT', 0, 1) > 0
end

local function state_of(group, record)
    if FINAL[record.state] then
        return record.state
    elseif tonumber(record.sequence) > 0 and not is_in_lane(group, record) then
        return 'running'
    elseif tonumber(record.due) <= now then
        return 'waiting'
    end
    return record.state
end

local function wait_for(id, waiters, name)
    local kept = {}
    for other in (waiters or ''):gmatch('%S+') do
        if other == name then
            return
        end
        kept[#kept + 1] = other
    end
    kept[#kept + 1] = name
    local first = math.max(1, #kept - MOST_WAITERS + 1)
    call('HSET', record_key(id), 'waiters', table.concat(kept, ' ', first))
end

local reply = {}
for index = 5, #ARGV do
    local id, record = ARGV[index], {}
    if has_record(id) then
        local fields = call('HGETALL', record_key(id))
        for field = 1, #fields, 2 do
            record[fields[field]] = fields[field + 1]
        end
        local group = group_of(record.gid)
        reply[index - 4] = {group.key, state_of(group, record), record.result or false,
            record.failure or false, tonumber(record.losses or 0), record.progress or false,
            tonumber(record.told or 0)}
        if ARGV[4] ~= '' and not FINAL[record.state] then
            wait_for(id, record.waiters, ARGV[4])
        end
    else
        reply[index - 4] = 0
    end
end
return reply
