-- Unique keys: who holds which (brokers/unique.py says how long). A message that releases its key
-- takes it along, as its mark: the letter of its mode, and the key.
--
-- T:u        hash  gid (4 bytes) length of shard (2), shard, key -> letter of the mode, then
--                  s (until started), d (until done): id of the message
--                  w (for a window): when it ends (8 bytes), id
--                  b (debounced): when the first was put (8), length of id (2), id, and where the
--                  message is: its member of `T:due`
-- T:windows  zset  those of windows -> when they end
-- T:gone:<queue>  list  packed {group key, shard, mark, id}: what was released here, while the
--                       queue is split, of keys that are elsewhere already
-- include groups
-- include moving
-- include entry

local unique = {KEYS = T .. ':u', WINDOWS = T .. ':windows', STARTED = 's', WINDOW = 'w',
    DEBOUNCED = 'b'}
do
    local ended, wants, away, last = {}, {}, {}, 0
    local prefix, prefix_group, prefix_shard

    function unique.field(group, shard, key)
        if group ~= prefix_group or shard ~= prefix_shard then
            prefix = struct.pack('>I4I2', group.number, #shard) .. shard
            prefix_group, prefix_shard = group, shard
        end
        return prefix .. key
    end

    function unique.value(mode, id)
        return mode .. id
    end

    -- Of a stored value: id, mode, and for a debounced message when the first was put, its member.
    -- Nothing if nobody holds the key (any more).
    function unique.holder(value)
        local mode = value and value:sub(1, 1)
        if mode == unique.WINDOW then
            local ends, first = struct.unpack('>I8', value, 2)
            if ends > now then
                return value:sub(first), mode
            end
        elseif mode == unique.DEBOUNCED then
            local began, length, first = struct.unpack('>I8I2', value, 2)
            return value:sub(first, first + length - 1), mode, began, value:sub(first + length)
        elseif mode then
            return value:sub(2), mode
        end
    end

    function unique.find(fields)
        if #fields > 0 and #fields <= SPREAD then
            return call('HMGET', unique.KEYS, unpack(fields))
        end
        local values = {}
        for first = 1, #fields, SPREAD do
            local last = math.min(first + SPREAD - 1, #fields)
            for index, value in ipairs(call('HMGET', unique.KEYS, unpack(fields, first, last))) do
                values[first + index - 1] = value
            end
        end
        return values
    end

    -- Notes that a message releases its key, at the end of the script.
    function unique.release(group, shard, mark, id)
        last = last + 1
        ended[last] = unique.field(group, shard, mark:sub(2))
        wants[last] = mark:sub(1, 1) .. id
        if group.phase == LEAVING and leaves(group, shard) then
            away[last] = {group, cmsgpack.pack({group.key, shard, mark, id})}
        end
    end

    -- Whether a key is held by the message that wants to release it.
    local function is_own(value, want)
        if value == want then
            return true
        end
        local id, mode = unique.holder(value)
        return id ~= nil and mode .. id == want
    end

    function unique.gone_key(queue)
        return T .. ':gone:' .. queue
    end

    -- Makes the releases.
    function unique.store()
        if last == 0 then
            return
        end
        local gone, number = {}, 0
        for index, value in ipairs(unique.find(ended)) do
            if value == wants[index] or is_own(value, wants[index]) then
                number = number + 1
                gone[number] = ended[index]
                if away[index] then
                    local group, packed = unpack(away[index])
                    call('RPUSH', unique.gone_key(queue_of(group.key)), packed)
                end
            end
        end
        spread('HDEL', unique.KEYS, gone)
        ended, wants, away, last = {}, {}, {}, 0
    end

    -- A message goes to another container. Where its key is already, but for debounced ones:
    -- returns when the first of those was put.
    function unique.leave(group, shard, message)
        local mark = message.mark
        local field = mark and unique.field(group, shard, mark:sub(2))
        local value = field and call('HGET', unique.KEYS, field)
        if value and is_own(value, mark:sub(1, 1) .. body_id(message.body)) then
            call('HDEL', unique.KEYS, field)
            return select(3, unique.holder(value))
        end
    end

    function unique.debounced(first, id, member)
        return unique.value(unique.DEBOUNCED, struct.pack('>I8I2', first, #id) .. id .. member)
    end

    function unique.release_of(group, shard, message)
        if message.mark then
            unique.release(group, shard, message.mark, body_id(message.body))
        end
    end

    function unique.release_entry(group, shard, entry)
        local mark = entry_mark(entry)
        if mark then
            unique.release(group, shard, mark, entry_id(entry))
        end
    end

    -- Releases the keys of what a claim holds; `only`: of one mode. Of every message of a claim, so
    -- it does not call what would do it for one.
    function unique.release_all(group, parts, entries, only)
        local index = 0
        for _, part in ipairs(parts) do
            local shard, own = part[1], unique.field(group, part[1], '')
            for position = 4, #part, 2 do
                for _ = 1, part[position] do
                    index = index + 1
                    local entry = entries[index]
                    local flags = entry:byte(BARE)
                    if flags % EXPIRING >= MARKED then
                        local head = flags % 2 == HISTORY and LONG or BARE
                        local mark, at = struct.unpack('>I2c0', entry, head + 1)
                        local body = flags >= EXPIRING and at + 8 or at
                        local mode, id = mark:sub(1, 1), body_id(entry, body)
                        local is_meant = not only or mode == only
                        if is_meant and group.phase == LEAVING then
                            unique.release(group, shard, mark, id)
                        elseif is_meant then
                            last = last + 1
                            ended[last], wants[last] = own .. mark:sub(2), mode .. id
                        end
                    end
                end
            end
        end
    end

    -- Lets a dead letter that is retried have its key again; false: another one holds it.
    function unique.take_again(group, shard, mark, id)
        local field = unique.field(group, shard, mark:sub(2))
        if unique.holder(call('HGET', unique.KEYS, field)) then
            return false
        end
        call('HSET', unique.KEYS, field, unique.value(mark:sub(1, 1), id))
        return true
    end

    -- Forgets windows that are over, `limit` at most; returns how many.
    function unique.forget_windows(limit)
        local over = call('ZRANGEBYSCORE', unique.WINDOWS, '-inf', now, 'LIMIT', 0, limit)
        local gone = {}
        for index, value in ipairs(unique.find(over)) do
            if value and not unique.holder(value) then
                gone[#gone + 1] = over[index]
            end
        end
        spread('HDEL', unique.KEYS, gone)
        spread('ZREM', unique.WINDOWS, over)
        return #over
    end
end
