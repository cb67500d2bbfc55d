-- Unique keys: who holds which (brokers/unique.py says how long). A message that releases its key
-- takes it along, as its mark: the letter of its mode, and the key.
--
-- T:u        hash  gid (4 bytes) length of shard (2), shard, key -> letter of the mode, then
--                  s (until started), d (until done): id of the message
--                  w (for a window): when it ends (8 bytes), id
--                  b (debounced): when the first was put (8), length of id (2), id, and where the
--                  message is: its member of `T:due`
-- T:windows  zset  those of windows -> when they end
-- include groups
-- include entry

local unique = {KEYS = T .. ':u', WINDOWS = T .. ':windows', STARTED = 's', WINDOW = 'w',
    DEBOUNCED = 'b'}
do
    local ended_fields, ended_ids = {}, {}

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
        ended_fields[#ended_fields + 1] = unique.field(group, shard, mark:sub(2))
        ended_ids[#ended_ids + 1] = id
    end

    -- Releases the keys that these messages hold themselves.
    function unique.store()
        if #ended_fields == 0 then
            return
        end
        local gone = {}
        for index, value in ipairs(unique.find(ended_fields)) do
            local id, mode = unique.holder(value)
            if id == ended_ids[index] and mode ~= unique.WINDOW then
                gone[#gone + 1] = ended_fields[index]
            end
        end
        spread('HDEL', unique.KEYS, gone)
        ended_fields, ended_ids = {}, {}
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
