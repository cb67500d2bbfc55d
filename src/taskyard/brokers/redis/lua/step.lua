-- step: settle claims, take back a few lost ones, let in what is due, then claim more.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   packed: {settlements, want or false, dead letters that a group keeps}
--           settlement: token, outcomes, results, kept sequences, if any what handlers
--           told (see shared/claims.lua)
--           want: groups {{key, messages, members, epoch of the placement that the caller knows
--           (by default 1)}…}, owner, lease (microseconds), claims, bytes,
--           drain, alone, listener or '', messages, whether the listener may be on another node
--       5…  results and failures that the settlements name by their index here
-- Reply {lost tokens, now, next_at, 1 if a suspect was passed over, claims; 1 if shards moved away}
--       claim: {token, key of its group, deadline, its lanes packed (shared/claims.lua), entries…}
-- include claims

local REAPED, PROMOTED = 4, 500
-- Lanes whose messages may not join a claim that one claim passes over.
local PASSED = 2048

local settlements, want, limit = unpack(cmsgpack.unpack(ARGV[4]))

local function claim_reply(token, key, deadline, parts, entries)
    local reply = {token, key, deadline, cmsgpack.pack(parts)}
    for index, entry in ipairs(entries) do
        reply[index + 4] = entry
    end
    return reply
end

-- A call that is repeated

local function reply_again(saved)
    local lost, at, upcoming, suspects, tokens, moved = unpack(cmsgpack.unpack(saved))
    local claims = {}
    for _, token in ipairs(tokens) do
        local stored = call('LRANGE', claim_key(token), 0, -1)
        if stored[1] then
            local key, _, _, _, parts = unpack(cmsgpack.unpack(stored[1]))
            local deadline = tonumber(call('ZSCORE', CLAIMS, text(token)))
            table.remove(stored, 1)
            claims[#claims + 1] = claim_reply(token, key, deadline, parts, stored)
        end
    end
    return {lost, at, upcoming, suspects, claims, moved}
end

-- What still fits into a claim

local function new_room(messages, bytes, alone)
    return {messages = math.max(1, messages), bytes = bytes, alone = alone, suspects = false,
        begun = false, losses = 0, cap = 0}
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
            for index, entry in ipairs(entries) do
                local size = entry_body_size(entry)
                if not book(room, size, 0, 0) then
                    push_unused(key, entries, index)
                    return false
                end
                bytes, number = bytes + size, number + 1
                taken[#taken + 1] = entry
            end
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
        if most == 0 then
            room.messages = 0
            return
        end
        local runs = take(lane, most, room, taken)
        if not runs then
            return
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

-- Filling claims

local suspects, make_claims = false, nil
do
    local function count_redelivered(group, entries)
        local number = 0
        for _, entry in ipairs(entries) do
            if entry:byte(BARE) % 2 == HISTORY and read_entry(entry).deliveries > 0 then
                number = number + 1
            end
        end
        count(group, 'redelivered', number)
    end

    local function open_claim(group, parts, entries)
        local token, deadline = sequences(1), now + want[3]
        store_claim(token, {group.key, want[2], want[3], #entries, parts}, entries)
        call('ZADD', CLAIMS, deadline, text(token))
        count(group, 'running', #entries)
        count_redelivered(group, entries)
        return claim_reply(token, group.key, deadline, parts, entries), token
    end

    -- Fills a claim from the first lanes under `key`; `came_from`: their place.
    local function fill(group, key, came_from, room, otherwise)
        local parts, entries, served, back = {}, {}, {}, {}
        local fetch, passed = 1, 0
        add_ready(group)
        while room.messages > 0 and passed < PASSED do
            local popped = call('ZPOPMIN', key, math.min(fetch, room.messages, SPREAD))
            if #popped == 0 then
                break
            end
            local shards = {}
            for index = 1, #popped, 2 do
                shards[#shards + 1] = popped[index]
            end
            load_lanes(group, shards)
            for index, shard in ipairs(shards) do
                local lane, part = group.lanes[shard], nil
                if room.messages > 0 then
                    lane.place, lane.turn = came_from, nil
                    part = take_from(lane, room, otherwise, entries)
                end
                if part then
                    parts[#parts + 1] = part
                    served[#served + 1] = lane
                else
                    passed = passed + 1
                    lane.place = nil
                    back[#back + 1] = popped[2 * index]
                    back[#back + 1] = shard
                end
            end
            fetch = fetch * 4
        end
        spread('ZADD', key, back, 2)
        for _, lane in ipairs(served) do
            settle_down(lane)
        end
        return parts, entries
    end

    local function first_score(group)
        if group.head == nil then
            add_ready(group)
            local found = call('ZRANGE', group.ready_key, 0, 0, 'WITHSCORES')
            group.head = found[2] and tonumber(found[2]) or false
        end
        return group.head
    end

    local function first_group(served)
        local first
        for _, group in ipairs(served) do
            local score = first_score(group)
            if score and (not first or score < first.head) then
                first = group
            end
        end
        return first
    end

    local function next_claim(served, wanted, alone)
        local group = first_group(served)
        while group do
            local room = new_room(wanted[group.gid], want[5], alone)
            -- Only a batch's age can be undone after it made a lane ready: by a clock set back.
            local parts, entries = fill(group, group.ready_key, READY, room, 'age')
            suspects = suspects or room.suspects
            group.head = nil
            local found = #parts > 0
            parts, entries = notes.drop(group, parts, entries)
            if #parts > 0 then
                return open_claim(group, parts, entries)
            end
            for index, other in ipairs(served) do -- it has only suspects, and they are not for now
                if other == group and not found then
                    table.remove(served, index)
                    break
                end
            end
            group = first_group(served)
        end
        for _, filling in ipairs(served) do
            if want[6] or filling.gate == DRAINING then
                local found
                repeat
                    local room = new_room(wanted[filling.gid], want[5], false)
                    local parts, entries = fill(filling, filling.filling_key, LATER, room, 'drain')
                    suspects, found = suspects or room.suspects, #parts > 0
                    parts, entries = notes.drop(filling, parts, entries)
                    if #parts > 0 then
                        return open_claim(filling, parts, entries)
                    end
                until not found
            end
        end
    end

    -- Claims group after group, as it is their turn, until the worker's slots are full.
    make_claims = function(served, wanted)
        local claims, tokens, messages = {}, {}, 0
        while #claims < want[4] and messages < want[9] do
            local claim, token = next_claim(served, wanted, want[7] and #claims == 0)
            if not claim then
                break
            end
            claims[#claims + 1], tokens[#tokens + 1] = claim, token
            messages = messages + #claim - 4
            if #claim > 4 and read_entry(claim[5]).cap == 1 then
                break
            end
        end
        return claims, tokens
    end
end

-- Lets in what is due, claims, or falls asleep; returns claims, their tokens, 1 if shards moved.
local function serve()
    reap_expired(REAPED, limit)
    promote_messages(PROMOTED)
    promote_lanes(PROMOTED)
    local served, wanted, members, named, moved = {}, {}, {}, {}, nil
    for _, item in ipairs(want[1]) do
        local group = known_group(item[1])
        if not group and want[8] ~= '' then
            group = made_group(item[1]) -- somebody may sleep on what is not there yet
        end
        if group then
            local known = {}
            for _, member in ipairs(item[3]) do
                known[member] = true
            end
            members[group.gid], named[#named + 1] = known, group
            if group.epoch and group.epoch > (item[4] or 1) then
                moved = 1
            end
            if group.gate ~= PAUSED and knows(known, group) then
                served[#served + 1], wanted[group.gid] = group, item[2]
            end
        end
    end
    local claims, tokens = make_claims(served, wanted)
    if want[8] ~= '' then
        if #claims > 0 then
            forget_sleeper(want[8])
        else
            fall_asleep(want[8], named, members, next_at(), want[10])
        end
    end
    if #claims > 0 then
        pass_on(named)
    end
    return claims, tokens, moved
end

-- The step

local saved = remembered()
if saved then
    return reply_again(saved)
end

local lost, claims, tokens, moved = {}, {}, {}, nil
for _, settlement in ipairs(settlements) do
    if not settle(settlement, limit) then
        lost[#lost + 1] = settlement[1]
    end
end
if want then
    claims, tokens, moved = serve()
end

store()
local upcoming = next_at()
remember(cmsgpack.pack({lost, now, upcoming, suspects and 1 or 0, tokens, moved}))
return {lost, now, upcoming, suspects and 1 or 0, claims, moved}
