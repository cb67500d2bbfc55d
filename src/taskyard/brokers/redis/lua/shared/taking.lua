-- Taking messages out of lanes, into a claim.
-- include claims

-- What still fits into a claim; `plain`: its messages came only once, and hold no unique keys

local function new_room(messages, bytes, alone)
    return {messages = math.max(1, messages), bytes = bytes, alone = alone, suspects = false,
        begun = false, losses = 0, cap = 0, plain = true}
end

-- Lets a message in if it may join.
local function book(room, size, losses, cap)
    if not room.begun then
        if cap == 1 and not room.alone then
            room.suspects = true
            return false
        end
        if cap > 0 then
            room.messages = math.min(room.messages, cap)
        end
        room.begun, room.losses, room.cap = true, losses, cap
    elseif losses ~= room.losses or cap ~= room.cap then
        return false
    elseif size > room.bytes then
        room.messages = 0
        return false
    end
    room.messages = room.messages - 1
    room.bytes = room.bytes - size
    return true
end

-- Taking from one lane. (Lua allows 200 locals in the open; the rest has a block of its own.)

local take_from
do
    local byte = string.byte

    -- Lets in messages that were never lost, if all of them may join.
    local function book_all(room, number, size)
        if room.losses ~= 0 or room.cap ~= 0 or number > room.messages or size > room.bytes then
            return false
        end
        room.begun, room.messages, room.bytes = true, room.messages - number, room.bytes - size
        return true
    end

    local function push_unused(key, entries, first)
        local unused = {}
        for index = #entries, first, -1 do
            unused[#unused + 1] = entries[index]
        end
        spread('LPUSH', key, unused)
    end

    -- Takes from messages that were never lost. `taken` gets the entries.
    -- Returns true: none are left; false: some are; nil: it did not look.
    local function take_fresh(key, most, room, taken)
        local ask, left, bytes, number = 8, math.min(most, room.messages), 0, 0
        while left > 0 do
            local asked = math.min(ask, left, SPREAD)
            local entries = call('LPOP', key, asked)
            if not entries then
                return true
            end
            local size, before, came = 0, #taken, #entries
            for index = 1, came do
                local entry = entries[index]
                local flags = byte(entry, BARE)
                local is_bare = flags == 0 or flags == RECORDED
                room.plain = room.plain and is_bare
                size = size + (is_bare and #entry - BARE or entry_body_size(entry))
            end
            if book_all(room, came, size) then
                for index = 1, came do
                    taken[before + index] = entries[index]
                end
            else
                for index, entry in ipairs(entries) do
                    if not book(room, entry_body_size(entry), 0, 0) then
                        push_unused(key, entries, index)
                        return false
                    end
                    taken[before + index] = entry
                end
            end
            bytes, number = bytes + size, number + came
            if #entries < asked then
                return true
            end
            left = math.min(left - asked, room.messages)
            ask = math.max(1, math.floor(room.bytes / (bytes / number + 1)) + 1)
        end
    end

    -- The same where some came back: one by one, in order of their sequence.
    local function take_mixed(lane, priority, most, room, taken)
        local left = most
        while left > 0 and room.messages > 0 do
            local entry, came_back = head_at(lane, priority)
            if not entry then
                break
            end
            local message = read_entry(entry)
            if not book(room, #message.body, message.losses, message.cap) then
                return
            end
            if came_back then
                call('ZREM', back_key(lane, priority), entry)
            else
                call('LPOP', list_key(lane, priority))
            end
            taken[#taken + 1] = entry
            left = left - 1
        end
        if call('EXISTS', back_key(lane, priority)) == 0 then
            lane.back = without(lane.back, priority)
            changed(lane)
        end
    end

    local function take_at(lane, priority, most, room, taken)
        local emptied
        if contains(lane.back, priority) then
            room.plain = false
            take_mixed(lane, priority, most, room, taken)
        else
            emptied = take_fresh(list_key(lane, priority), most, room, taken)
        end
        if emptied == nil then
            local length = length_at(lane, priority)
            emptied = length == 0
            if not lane.priorities[2] then
                lane.waiting = length
                return emptied
            end
        end
        if not lane.priorities[2] then
            lane.waiting = emptied and 0 or nil
        end
        return emptied
    end

    local function count_out(lane, entries, first)
        local group, number, bytes = lane.group, #entries - first + 1, 0
        if group.within > 0 then
            for index = first, #entries do
                bytes = bytes + entry_body_size(entries[index])
            end
            lane.bytes = lane.bytes < 0 and -1 or lane.bytes - bytes
            lane.oldest = waiting(lane) > 0 and oldest_sequence(lane) or 0
            changed(lane)
        elseif lane.oldest ~= 0 then
            lane.oldest = 0
            changed(lane)
        end
        count(group, 'waiting', -number)
        if waiting(lane) == 0 then
            count(group, 'lanes', -1)
        end
    end

    -- Removes the first messages of a lane, in order of priority; returns {priority, number…}.
    local function take(lane, most, room, taken)
        local runs, first, left, several = {}, #taken + 1, most, lane.priorities[2]
        local before, emptied = lane.waiting, true
        local priorities = {unpack(lane.priorities)}
        for index, priority in ipairs(priorities) do
            local start = #taken
            emptied = take_at(lane, priority, left, room, taken)
            local number = #taken - start
            if number > 0 then
                runs[#runs + 1] = priority
                runs[#runs + 1] = number
                left = left - number
            end
            if not emptied then
                break
            elseif priorities[index + 1] then
                lane.priorities = without(lane.priorities, priority)
                changed(lane)
            end
        end
        if #runs == 0 then
            lane.waiting = before
            return
        end
        if several then
            lane.waiting = nil
        end
        count_out(lane, taken, first)
        return runs
    end

    -- Takes from a lane what it gives; returns its part of the claim.
    take_from = function(lane, room, otherwise, taken)
        local group, begun = lane.group, #taken > 0
        if otherwise == 'drain' and lane.blocked > now then
            return
        end
        local reason, most = '', room.messages
        if group.within > 0 then
            waiting(lane)
            know_batch(lane)
            reason = flush_reason(lane, group) or otherwise
            most = take_count(lane, group, room.messages, reason, begun)
        end
        local before = #taken
        if most == 0 then
            room.messages = 0
            return
        end
        if group.shard_limit then
            most = math.min(most, gcra.tokens(lane.tat, group.shard_limit))
        end
        local runs = most > 0 and take(lane, most, room, taken)
        if not runs then
            return
        end
        if group.shard_limit then
            lane.tat = gcra.spend(lane.tat, group.shard_limit, #taken - before)
            changed(lane)
        end
        if group.concurrency > 0 then
            lane.held = lane.held + 1
            changed(lane)
        end
        if reason ~= '' then
            count(group, 'flush_' .. reason, 1)
        end
        return {lane.shard, reason, unpack(runs)}
    end
end
