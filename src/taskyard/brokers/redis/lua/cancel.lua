-- cancel: take a waiting message away, or remember that a running one is cancelled.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   id
--       5   1: note the id, where there is no record that says where its message is; else 0
-- Reply {what happened; if it is `told`, who runs it}: removed, told, noted, ended, unknown;
--       or `moving`: it is on its way to another container
-- include claims
-- include removal

local FINAL = {done = true, dead = true, discarded = true, cancelled = true}

local saved = remembered()
if saved then
    return cmsgpack.unpack(saved)
end

local id, note = ARGV[4], ARGV[5] == '1'

-- Where a sequence is among sorted entries, of which `at` gives one by its index from 0.
local function index_of(sequence, first, number, at)
    local low, high = first, first + number - 1
    while low <= high do
        local middle = math.floor((low + high) / 2)
        local entry = at(middle)
        local found = entry and entry_sequence(entry) or 0
        if found == sequence then
            return middle, entry
        elseif found < sequence then
            low = middle + 1
        else
            high = middle - 1
        end
    end
end

local function remove_fresh(lane, priority, sequence)
    local key = list_key(lane, priority)
    local length = call('LLEN', key)
    local index, entry = index_of(sequence, 0, length, function(at)
        return call('LINDEX', key, at)
    end)
    if entry then
        call('LREM', key, index * 2 < length and 1 or -1, entry) -- from the nearer end
    end
    return entry
end

local function remove_back(lane, priority, sequence)
    local key = back_key(lane, priority)
    local entry = call('ZRANGEBYSCORE', key, text(sequence), text(sequence), 'LIMIT', 0, 1)[1]
    if entry then
        call('ZREM', key, entry)
    end
    return entry
end

local function remove_waiting(group, record)
    local lane, priority = lane_of(group, record.shard), tonumber(record.priority)
    local sequence = tonumber(record.sequence)
    local entry = contains(lane.back, priority) and remove_back(lane, priority, sequence)
        or remove_fresh(lane, priority, sequence)
    if not entry then
        return
    end
    removal.leave(lane, priority)
    removal.count_out(lane, 1, entry_body_size(entry))
    if record.state == 'retrying' and lane.blocked == tonumber(record.due) then
        lane.blocked = 0
        changed(lane)
    end
    settle_down(lane)
    return read_entry(entry)
end

-- Outside its lane; there, messages are sorted by time, then by sequence.
local function remove_delayed(group, record)
    local due = record.due
    local first = call('ZCOUNT', DUE_KEY, '-inf', '(' .. due)
    local number = call('ZCOUNT', DUE_KEY, due, due)
    local _, member = index_of(-tonumber(record.sequence), first, number, function(at)
        return call('ZRANGE', DUE_KEY, at, at)[1]
    end)
    if not member then
        return
    end
    call('ZREM', DUE_KEY, member)
    count(group, 'delayed', -1)
    local _, _, _, entry = read_due(member)
    return read_entry(entry)
end

-- Remembers in open claims, of one group or of all, which of their messages are cancelled. Returns
-- who runs one.
local function tell(group, is_meant)
    local worker
    for _, token in ipairs(call('ZRANGE', CLAIMS, 0, -1)) do
        local key = claim_key(tonumber(token))
        local packed = call('LINDEX', key, 0)
        local header = packed and cmsgpack.unpack(packed) or {}
        if packed and (not group or header[1] == group.key) then
            local told, before = header[8] or {}, #(header[8] or {})
            local found = false
            for _, entry in ipairs(call('LRANGE', claim_key(tonumber(token)), 1, -1)) do
                if is_meant(entry) then
                    found = true
                    if not contains(told, entry_sequence(entry)) then
                        told[#told + 1] = entry_sequence(entry)
                    end
                end
            end
            if #told > before then
                table.sort(told)
                header[7], header[8] = header[7] or false, told -- no holes
                call('LSET', key, 0, cmsgpack.pack(header))
            end
            worker = worker or found and header[2]
        end
    end
    return worker
end

local function cancel_recorded(record)
    if FINAL[record.state] then
        return {'ended'}
    end
    local group, sequence = group_of(record.gid), tonumber(record.sequence)
    local removed
    if sequence > 0 then
        removed = remove_waiting(group, record)
    elseif sequence < 0 then
        removed = remove_delayed(group, record)
    end
    if removed then
        notes.stop(group, record.shard, removed)
        return {'removed'}
    end
    local worker = sequence > 0 and tell(group, function(entry)
        return entry_sequence(entry) == sequence
    end)
    if worker then
        return {'told', worker}
    end
    return leaves(group, record.shard) and {'moving'} or nil
end

local function cancel_noted()
    notes.add(id)
    notes.forget_old()
    local worker = tell(nil, function(entry)
        return body_id(read_entry(entry).body) == id
    end)
    return worker and {'told', worker} or {'noted'}
end

local function cancel()
    local reply
    if has_record(id) then
        local record, fields = {}, call('HGETALL', record_key(id))
        for index = 1, #fields, 2 do
            record[fields[index]] = fields[index + 1]
        end
        reply = cancel_recorded(record)
    end
    if note and (not reply or reply[1] == 'moving') then
        return cancel_noted()
    end
    return reply or {'unknown'}
end

local reply = cancel()
store()
remember(cmsgpack.pack(reply))
return reply
