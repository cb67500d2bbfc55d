-- step: settle claims, take back a few lost ones, let in what is due, then claim more.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   packed: {settlements, want or false, dead letters that a group keeps}
--           settlement: token, outcomes, results, kept sequences, if any what handlers
--           told (see shared/claims.lua)
--           want: groups {{key, messages, members, epoch of the placement that the caller knows
--           (by default 1), whether he knows it from an earlier call}…}, owner, lease
--           (microseconds), claims, bytes, drain, alone, listener or '', messages, whether the
--           listener may be on another node
--       5…  results and failures that the settlements name by their index here
-- Reply {lost tokens, now, next_at, 1 if a suspect was passed over, claims; 1 if shards moved away,
--       or a placement known from earlier may be out of date: nobody sleeps on groups that are new}
--       claim: {token, key of its group, deadline, its lanes packed (shared/claims.lua), entries…}
--       A repeated call gets the claims that are still there, renewed.
-- include claims
-- include taking

local REAPED, PROMOTED = 4, 500
-- Lanes whose messages may not join a claim that one claim passes over.
local PASSED = 2048

local settlements, want, limit = unpack(cmsgpack.unpack(ARGV[4]))

local function claim_reply(token, key, deadline, parts, entries)
    if #entries <= SPREAD then
        return {token, key, deadline, cmsgpack.pack(parts), unpack(entries)}
    end
    local reply = {token, key, deadline, cmsgpack.pack(parts)}
    for index, entry in ipairs(entries) do
        reply[index + 4] = entry
    end
    return reply
end

-- A call that is repeated. Its claims are renewed: who asks again may not have heard of them, so
-- that nobody could renew them, but is there.

local function reply_again(saved)
    local lost, at, upcoming, suspects, tokens, moved = unpack(cmsgpack.unpack(saved))
    local claims = {}
    for _, token in ipairs(tokens) do
        local stored = call('LRANGE', claim_key(token), 0, -1)
        if stored[1] then
            local key, _, lease, _, parts = unpack(cmsgpack.unpack(stored[1]))
            local deadline = now + lease
            call('ZADD', CLAIMS, deadline, text(token))
            table.remove(stored, 1)
            claims[#claims + 1] = claim_reply(token, key, deadline, parts, stored)
        end
    end
    return {lost, at, upcoming, suspects, claims, moved}
end

-- Filling claims

local suspects, make_claims = false, nil
do
    local STARTED, byte = unique.STARTED:byte(), string.byte

    -- Nobody else looks at every entry. So it says, too, whether some release their unique keys
    -- now, and whether some hold them until they end.
    local function count_redelivered(group, entries)
        local number, starting, keyed = 0, false, nil
        for index = 1, #entries do
            local entry = entries[index]
            local flags = byte(entry, BARE)
            if flags % 2 == HISTORY and read_entry(entry).deliveries > 0 then
                number = number + 1
            end
            if flags >= MARKED and flags % EXPIRING >= MARKED then
                local is_starting = entry_mode(entry) == STARTED
                starting, keyed = starting or is_starting, keyed or not is_starting or nil
            end
        end
        count(group, 'redelivered', number)
        return starting, keyed
    end

    local function open_claim(group, parts, entries, is_plain)
        local token, deadline, starting, keyed = sequences(1), now + want[3], false, nil
        if not is_plain then
            starting, keyed = count_redelivered(group, entries)
        end
        if starting then
            unique.release_all(group, parts, entries, unique.STARTED)
        end
        limits.spend(group, #entries)
        store_claim(token, {group.key, want[2], want[3], #entries, parts,
            limits.is_limited(group) and now or false, keyed}, entries)
        call('ZADD', CLAIMS, deadline, text(token))
        count(group, 'running', #entries)
        return claim_reply(token, group.key, deadline, parts, entries), token
    end

    -- Fills a claim from the first lanes under `key`; `came_from`: their place.
    local function fill(group, key, came_from, room, otherwise)
        local parts, entries, served, back, looked = {}, {}, {}, {}, {}
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
                    looked[#looked + 1] = not part and lane or nil
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
        for _, lane in ipairs(looked) do
            if group.shard_limit and gcra.tokens(lane.tat, group.shard_limit) == 0 then
                settle_down(lane) -- a clock was set back since it was ready
            end
        end
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

    -- Leaves out groups without tokens.
    local function pass_over(served)
        for index = #served, 1, -1 do
            if limits.room(served[index], 1) == 0 then
                table.remove(served, index)
            end
        end
    end

    local function next_claim(served, wanted, alone)
        pass_over(served)
        local group = first_group(served)
        while group do
            local room = new_room(limits.room(group, wanted[group.gid]), want[5], alone)
            -- Only a batch's age can be undone after it made a lane ready: by a clock set back.
            local parts, entries = fill(group, group.ready_key, READY, room, 'age')
            suspects = suspects or room.suspects
            group.head = nil
            local found = #parts > 0
            parts, entries = notes.drop(group, parts, entries)
            if #parts > 0 then
                return open_claim(group, parts, entries, room.plain)
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
                    local room = new_room(limits.room(filling, wanted[filling.gid]), want[5], false)
                    local parts, entries = fill(filling, filling.filling_key, LATER, room, 'drain')
                    suspects, found = suspects or room.suspects, #parts > 0
                    parts, entries = notes.drop(filling, parts, entries)
                    if #parts > 0 then
                        return open_claim(filling, parts, entries, room.plain)
                    end
                until not found
            end
        end
    end

    -- When a group that has something, but no token, gets one; 0: there is none.
    local function next_token_at(served)
        local first = 0
        for _, group in ipairs(served) do
            if limits.is_limited(group) and limits.room(group, 1) == 0 then
                add_ready(group)
                local drains = want[6] or group.gate == DRAINING
                if call('EXISTS', group.ready_key) == 1
                    or drains and call('EXISTS', group.filling_key) == 1
                then
                    first = earliest(first, limits.token_at(group))
                end
            end
        end
        return first
    end

    -- Claims group after group, as it is their turn, until the worker's slots are full. Returns
    -- the claims, their tokens, and when a token comes that something waits for.
    make_claims = function(served, wanted)
        local claims, tokens, messages, all = {}, {}, 0, {unpack(served)}
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
        return claims, tokens, next_token_at(all)
    end
end

-- Lets in what is due, claims, or falls asleep; returns claims, their tokens, 1 if shards moved,
-- and when a token of a limit comes that something waits for.
local function serve()
    reap_expired(REAPED, limit)
    promote_messages(PROMOTED)
    promote_lanes(PROMOTED)
    local served, wanted, members, named, moved = {}, {}, {}, {}, nil
    for _, item in ipairs(want[1]) do
        local group = known_group(item[1])
        if not group and want[8] ~= '' and item[5] then
            moved = 1
        elseif not group and want[8] ~= '' then
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
    local claims, tokens, token_at = make_claims(served, wanted)
    if want[8] ~= '' then
        if #claims > 0 then
            forget_sleeper(want[8])
        else
            fall_asleep(want[8], named, members, earliest(next_at(), token_at), want[10])
        end
    end
    if #claims > 0 then
        pass_on(named)
    end
    return {claims = claims, tokens = tokens, moved = moved, token_at = token_at}
end

-- The step

local saved = remembered()
if saved then
    return reply_again(saved)
end

local lost, found = {}, {claims = {}, tokens = {}, token_at = 0}
for _, settlement in ipairs(settlements) do
    if not settle(settlement, limit) then
        lost[#lost + 1] = settlement[1]
    end
end
if want then
    found = serve()
end

store()
local upcoming = earliest(next_at(), found.token_at)
remember(cmsgpack.pack({lost, now, upcoming, suspects and 1 or 0, found.tokens, found.moved}))
return {lost, now, upcoming, suspects and 1 or 0, found.claims, found.moved}
