-- cancel: take a waiting message away, or remember that a running one is cancelled. It is named by
-- its id, or by the unique key that it holds.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   id; with a key '', or that of who must hold it
--       5   1: note the id, where there is no record that says where its message is; else 0. Who
--           holds a key is noted in any case, but for a window: its message may be elsewhere
--       6   group key, if it is named by a unique key
--       7   shard, in that case
--       8   key, in that case
-- Reply {what happened; if it is `told`, who runs it}: removed, told, noted, ended, unknown;
--       or `moving`: it is on its way to another container
--       With a key {what happened, who runs it or '', id and letter of the mode of who holds it or
--       '' and ''}; never `moving`. The key is free (brokers/cancelling.py), where a split took it
--       to a little later
-- include claims
-- include withdrawal

local FINAL = {done = true, dead = true, discarded = true, cancelled = true}

local saved = remembered()
if saved then
    return cmsgpack.unpack(saved)
end

local note = ARGV[5] == '1'

local function remove_waiting(group, record)
    local lane = lane_of(group, record.shard)
    local removed = take_waiting(group, record.shard, tonumber(record.priority),
        tonumber(record.sequence))
    if removed and record.state == 'retrying' and lane.blocked == tonumber(record.due) then
        lane.blocked = 0
        changed(lane)
        settle_down(lane)
    end
    return removed
end

local function take_out(group, member)
    if call('ZREM', DUE_KEY, member) == 1 then
        count(group, 'delayed', -1)
        local _, _, _, entry = read_due(member)
        return read_entry(entry)
    end
end

-- Outside its lane; there, messages are sorted by time, then by sequence.
local function remove_delayed(group, record)
    local due = record.due
    local first = call('ZCOUNT', DUE_KEY, '-inf', '(' .. due)
    local number = call('ZCOUNT', DUE_KEY, due, due)
    local _, member = index_of(-tonumber(record.sequence), first, number, function(at)
        return call('ZRANGE', DUE_KEY, at, at)[1]
    end)
    return member and take_out(group, member)
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

local function cancel_noted(id)
    notes.add(id)
    notes.forget_old()
    local worker = tell(nil, function(entry)
        return body_id(read_entry(entry).body) == id
    end)
    return worker and {'told', worker} or {'noted'}
end

-- `group`, `shard`: that it is of; without them it may be any.
local function cancel(id, may_note, group, shard)
    local reply
    if has_record(id) then
        local record, fields = {}, call('HGETALL', record_key(id))
        for index = 1, #fields, 2 do
            record[fields[index]] = fields[index + 1]
        end
        if not group or (record.gid == group.gid and record.shard == shard) then
            reply = cancel_recorded(record)
        end
    end
    if may_note and (not reply or reply[1] == 'moving') then
        return cancel_noted(id)
    end
    return reply or {'unknown'}
end

local function cancel_put_off(group, shard, member)
    local removed = take_out(group, member)
    if removed then
        notes.stop(group, shard, removed)
        return {'removed'}
    end
end

local function cancel_holder(group, shard, key)
    local field = group and unique.field(group, shard, key)
    local id, mode, _, member = unique.holder(field and call('HGET', unique.KEYS, field))
    local is_window, is_meant = mode == unique.WINDOW, ARGV[4] == '' or ARGV[4] == id
    -- A window that was copied to where its shard is now counts there alone.
    if not id or not is_meant or (is_window and is_elsewhere(group, shard)) then
        return {'unknown', '', '', ''}
    end
    local reply = member and cancel_put_off(group, shard, member)
        or cancel(id, note or not is_window, group, shard)
    local what = reply[1]
    -- What is removed releases its own key, and what is told does so when it ends.
    if what == 'noted' or (is_window and (what == 'removed' or what == 'told')) then
        unique.release(group, shard, mode .. key, id)
    end
    return {what, reply[2] or '', id, mode}
end

local reply
if ARGV[8] then
    reply = cancel_holder(known_group(ARGV[6]), ARGV[7], ARGV[8])
else
    reply = cancel(ARGV[4], note)
end
store()
remember(cmsgpack.pack(reply))
return reply
