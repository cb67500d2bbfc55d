-- Admission: which messages of a put are stored, where they have unique keys.
--
-- The keys of an item of a put are {letter of the mode, span, longest, key…} (see put.lua). What is
-- admitted gets `bodies`, `keys`, `held` (to be stored), `given`: how many there were, and
-- `replaced`: how many take the place of others.
-- include due

local admission = {}
do
    local taken = {}

    -- The keys of an item's messages, as they are stored; of a group that nobody named yet, as long
    -- as that is so.
    local function fields_of(group, item)
        local fields, keys = {}, item[12]
        local prefix = group and unique.field(group, item[2], '')
            or item[1] .. '\0' .. item[2] .. '\0'
        for index = 4, #keys do
            fields[index - 3] = prefix .. keys[index]
        end
        return fields
    end

    -- What is stored of keys, in front of the id; of debounced ones it is more.
    local function value_begin(mode, span)
        return mode .. (mode == unique.WINDOW and struct.pack('>I8', now + span) or '')
    end

    -- Who holds a key, and in which mode: by what this call has admitted so far, or what is stored.
    local function holder_of(field, value)
        local mine = taken[field]
        if mine and mine:sub(1, 1) == unique.DEBOUNCED then
            return mine:sub(2), unique.DEBOUNCED
        elseif mine or value then
            return unique.holder(mine or value)
        end
    end

    -- Decides about the messages of an item, whose bodies begin behind ARGV[body]. Nothing is
    -- stored. Returns what the caller is told: index (from 0), and the id that stands, by turns.
    function admission.admit(item, body)
        local keys, told, bodies, admitted, held, ids = item[12], {}, {}, {}, {}, {}
        local group, recorded, number, replaced = known_group(item[1]), #item[9] > 0, 0, 0
        local mode, begin = keys[1], value_begin(keys[1], keys[2])
        local fields = fields_of(group, item)
        local found = group and unique.find(fields) or {}
        for index = 1, item[6] do
            local text_of, field = ARGV[body + index], fields[index]
            local holder, other
            if found[index] or taken[field] then
                holder, other = holder_of(field, found[index])
            end
            if holder and not (other == unique.DEBOUNCED and mode == other) then
                told[#told + 1], told[#told + 2] = index - 1, holder
            else
                local id = body_id(text_of)
                if holder then
                    told[#told + 1], told[#told + 2] = index - 1, id
                    replaced = replaced + 1
                end
                number = number + 1
                local value = begin .. id
                taken[field] = value
                held[2 * number - 1], held[2 * number] = field, value
                bodies[number], admitted[number] = text_of, keys[index + 3]
                if recorded then
                    ids[number] = item[9][index]
                end
            end
        end
        item.bodies, item.keys, item.held, item.given = bodies, admitted, held, item[6]
        item[6], item[9], item.is_new_group, item.replaced = number, ids, not group, replaced
        return told
    end

    -- Lets the messages of an item hold their keys; returns what travels with them: the letter of
    -- their mode, and the keys. Nothing of a window.
    function admission.hold(group, item)
        local held, mode = item.held, item[12][1]
        if item.is_new_group then
            for index, key in ipairs(item.keys) do
                held[2 * index - 1] = unique.field(group, item[2], key)
            end
        end
        spread('HSET', unique.KEYS, held, 2)
        if mode ~= unique.WINDOW then
            return mode, item.keys
        end
        local windows, ends = {}, now + item[12][2]
        for index = 1, #held, 2 do
            windows[index], windows[index + 1] = ends, held[index]
        end
        spread('ZADD', unique.WINDOWS, windows, 2)
        return '', {}
    end

    -- Puts a message off, in place of the one that was put off under its key; returns until when,
    -- and its sequence.
    function admission.debounce(group, item, index, recorded)
        local key, body, shard = item.keys[index], item.bodies[index], item[2]
        local span, longest = item[12][2], item[12][3]
        local field = unique.field(group, shard, key)
        local id, _, first, member = unique.holder(call('HGET', unique.KEYS, field))
        if member then
            call('ZREM', DUE_KEY, member)
            count(group, 'delayed', -1)
            count(group, 'discarded', 1)
            finish_record(id, 'discarded')
        end
        first = first or now
        local due, sequence = math.min(now + span, first + longest), sequences(1)
        member = delay(group, shard, item[3], due, {sequence = sequence, since = sequence,
            deliveries = 0, attempts = 0, losses = 0, cap = 0, recorded = recorded,
            mark = unique.DEBOUNCED .. key, body = body, expires = item[13]})
        call('HSET', unique.KEYS, field, unique.debounced(first, body_id(body), member))
        return due, sequence
    end
end
