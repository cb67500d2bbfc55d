-- Admission: which messages of a put are stored, where they have unique keys.
--
-- The keys of an item of a put are {letter of the mode, span, longest, key…} (see put.lua). What is
-- admitted gets `bodies`, `keys` and, of those with records, ids.
-- include due

local admission = {}
do
    local taken = {}

    local function fields_of(group, item)
        local fields, keys = {}, item[11]
        for index = 4, #keys do
            fields[index - 3] = unique.field(group, item[2], keys[index])
        end
        return fields
    end

    -- Decides about the messages of an item, whose bodies begin behind ARGV[body]. Nothing is
    -- stored. Returns what the caller is told: index (from 0), and the id that stands, by turns.
    function admission.admit(item, body)
        local keys, told, bodies, admitted, ids = item[11], {}, {}, {}, {}
        local group = known_group(item[1])
        local values = group and unique.find(fields_of(group, item)) or {}
        for index = 1, item[6] do
            local text_of, key = ARGV[body + index], keys[index + 3]
            local name, id = item[1] .. '\0' .. item[2] .. '\0' .. key, body_id(text_of)
            local holder, mode = unique.holder(values[index])
            if taken[name] then
                holder, mode = unpack(taken[name])
            end
            if holder and not (mode == unique.DEBOUNCED and keys[1] == mode) then
                told[#told + 1], told[#told + 2] = index - 1, holder
            else
                if holder then
                    told[#told + 1], told[#told + 2] = index - 1, id
                end
                taken[name] = {id, keys[1]}
                bodies[#bodies + 1], admitted[#admitted + 1] = text_of, key
                ids[#ids + 1] = item[9][index]
            end
        end
        item.bodies, item.keys, item.given, item[6], item[9] = bodies, admitted, item[6],
            #bodies, ids
        return told
    end

    -- Lets the messages of an item hold their keys; returns their marks.
    function admission.hold(group, item)
        local mode, span = item[11][1], item[11][2]
        local held, windows, marks = {}, {}, {}
        local before = mode == unique.WINDOW and struct.pack('>I8', now + span) or ''
        for index, key in ipairs(item.keys) do
            local field = unique.field(group, item[2], key)
            held[#held + 1] = field
            held[#held + 1] = unique.value(mode, before .. body_id(item.bodies[index]))
            if mode == unique.WINDOW then
                windows[#windows + 1] = now + span
                windows[#windows + 1] = field
                marks[index] = false
            else
                marks[index] = mode .. key
            end
        end
        spread('HSET', unique.KEYS, held, 2)
        spread('ZADD', unique.WINDOWS, windows, 2)
        return marks
    end

    -- Puts a message off, in place of the one that was put off under its key; returns until when.
    function admission.debounce(group, item, index, recorded)
        local key, body, shard = item.keys[index], item.bodies[index], item[2]
        local span, longest = item[11][2], item[11][3]
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
            mark = unique.DEBOUNCED .. key, body = body})
        call('HSET', unique.KEYS, field, unique.debounced(first, body_id(body), member))
        return due
    end
end
