-- Unique keys: who holds which (brokers/unique.py says how long). A message that releases its key
-- takes it along, as its mark: the letter of its mode, and the key.
--
-- T:u        hash  gid (4 bytes) length of shard (2), shard, key -> letter of the mode, then
--                  s (until started), d (until done): id of the message
--                  w (for a window): when it ends (8 bytes), id
--                  b (debounced): when the first was put (8), length of id (2), id, and where the
--                  message is: its member of `T:due`
-- T:windows  zset  those of windows -> when they end
-- T:gone:<queue>  list  packed {group key, shard, key, id}: what was released here, while the queue
--                       is split, of keys that are elsewhere already
-- include groups
-- include moving
-- include entry

local unique = {KEYS = T .. ':u', WINDOWS = T .. ':windows', STARTED = 's', WINDOW = 'w',
    DEBOUNCED = 'b'}
do
    local ended = {}

    local function fields_of(released)
        local fields = {}
        for index, item in ipairs(released) do
            fields[index] = unique.field(unpack(item, 1, 3))
        end
        return fields
    end

    function unique.field(group, shard, key)
        return struct.pack('>I4I2', group.number, #shard) .. shard .. key
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
        local values = {}
        for first = 1, #fields, SPREAD do
            local last = math.min(first + SPREAD - 1, #fields)
            for index, value in ipairs(call('HMGET', unique.KEYS, unpack(fields, first, last))) do
                values[first + index - 1] = value
            end
        end
        return values
    end

    -- Notes that the message of a mark releases its key, at the end of the script.
    function unique.release(group, shard, mark, id)
        ended[#ended + 1] = {group, shard, mark:sub(2), id}
    end

    -- Lets go of those of these keys that the messages hold themselves; returns which of them.
    local function let_go(released)
        local fields, gone, held = fields_of(released), {}, {}
        for index, value in ipairs(unique.find(fields)) do
            local id, mode = unique.holder(value)
            if id == released[index][4] and mode ~= unique.WINDOW then
                gone[#gone + 1] = fields[index]
                held[#held + 1] = released[index]
            end
        end
        spread('HDEL', unique.KEYS, gone)
        return held
    end

    function unique.gone_key(queue)
        return T .. ':gone:' .. queue
    end

    -- Makes the releases.
    function unique.store()
        for _, item in ipairs(#ended > 0 and let_go(ended) or {}) do
            local group, shard, key, id = unpack(item)
            if leaves(group, shard) then
                call('RPUSH', unique.gone_key(queue_of(group.key)),
                    cmsgpack.pack({group.key, shard, key, id}))
            end
        end
        ended = {}
    end

    -- A message goes to another container. Where its key is already, but for debounced ones:
    -- returns when the first of those was put.
    function unique.leave(group, shard, message)
        local key = message.mark and message.mark:sub(2)
        local value = key and call('HGET', unique.KEYS, unique.field(group, shard, key))
        if value then
            let_go({{group, shard, key, body_id(message.body)}})
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

    -- Goes through the entries of a claim: visit(shard, entry).
    local function each(parts, entries, visit)
        local index = 0
        for _, part in ipairs(parts) do
            for position = 4, #part, 2 do
                for _ = 1, part[position] do
                    index = index + 1
                    visit(part[1], entries[index])
                end
            end
        end
    end

    function unique.release_all(group, parts, entries)
        each(parts, entries, function(shard, entry)
            unique.release_entry(group, shard, entry)
        end)
    end

    -- Of what was claimed, releases the keys that are held until then. Returns whether there are
    -- others, that are held until the end.
    function unique.start(group, parts, entries)
        local left = false
        each(parts, entries, function(shard, entry)
            local mark = entry_mark(entry)
            if mark and mark:sub(1, 1) == unique.STARTED then
                unique.release(group, shard, mark, entry_id(entry))
            elseif mark then
                left = true
            end
        end)
        return left
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
