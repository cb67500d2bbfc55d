-- Claims: leased messages, and how they end.
--
-- T:claims     zset  token -> deadline
-- T:c:<token>  list  first packed: group key, owner, lease, number of messages, and per lane
--                    {shard, flush, priority, number of messages, priority, number…}; when it was
--                    made where a rate is limited, else false; whether some of them hold unique
--                    keys; the sequences of messages that were cancelled since, if any; then the
--                    entries, in that order
-- include letters
-- include envelope

local CLAIMS = T .. ':claims'

local function claim_key(token)
    return T .. ':c:' .. text(token)
end

local function store_claim(token, header, entries)
    call('RPUSH', claim_key(token), cmsgpack.pack(header))
    spread('RPUSH', claim_key(token), entries)
    note_claim(token, known_group(header[1]), header[5])
end

local function close_claim(token, group, number)
    call('UNLINK', claim_key(token))
    call('ZREM', CLAIMS, text(token))
    note_claim(token, group, {})
    count(group, 'running', -number)
end

local function load_parts(group, parts)
    local shards = {}
    for index, part in ipairs(parts) do
        shards[index] = part[1]
    end
    load_lanes(group, shards)
end

-- A claim of the lane ended, or some of its messages came back.
local function look_at(group, shard, released)
    local lane = lane_of(group, shard)
    if released and group.concurrency > 0 and lane.held > 0 then
        if lane.held >= group.concurrency and not lane.place then
            lane.place = NOWHERE
        end
        lane.held = lane.held - 1
        lane.touched = true
        changed(lane)
    end
    if lane.touched then
        lane.touched = nil
        settle_down(lane)
    end
end

local function give_back(group, shard, priority, message)
    local lane = lane_of(group, shard)
    put_back(lane, priority, message)
    lane.touched = true
    return lane
end

local function delivered(message, failed)
    message.deliveries = message.deliveries + 1
    message.attempts = message.attempts + (failed and 1 or 0)
    return message
end

-- What became of one message. An outcome is {kind, …}:
--   'back', started, park · 'retried', delay, id of its record or ''
--   'dead', index of the failure in ARGV, id, task, whether the attempt counts · 'discard', id
--   'stopped', started
local ends = {}

function ends.back(group, shard, priority, message, outcome)
    local lane = give_back(group, shard, priority,
        outcome[2] and delivered(message, false) or message)
    if outcome[3] then
        set_parked(lane, true)
    end
end

function ends.retried(group, shard, priority, message, outcome)
    local due, ordered = now + outcome[2], group.concurrency == 1
    count(group, 'retried', 1)
    if outcome[3] ~= '' then
        postpone_record(outcome[3], due, ordered, message.sequence)
    end
    delivered(message, true)
    if ordered then
        local lane = give_back(group, shard, priority, message)
        lane.blocked = math.max(lane.blocked, due)
        changed(lane)
    else
        delay(group, shard, priority, due, message)
    end
end

function ends.dead(group, shard, priority, message, outcome, limit)
    bury(group, shard, priority, delivered(message, outcome[5]), ARGV[outcome[2]], 0, outcome[3],
        outcome[4], limit)
end

function ends.discard(group, shard, _, message, outcome)
    count(group, 'discarded', 1)
    unique.release_of(group, shard, message)
    finish_record(outcome[2], 'discarded')
end

-- Gives back the tokens of messages of a part that were not started to its lane.
function limits.refund_lane(group, part, since, number)
    if not group.shard_limit then
        return
    end
    local lane, of_part = lane_of(group, part[1]), 0
    for position = 4, #part, 2 do
        of_part = of_part + part[position]
    end
    lane.tat = gcra.refund(lane.tat, group.shard_limit, since, of_part, number)
    lane.touched = true
    changed(lane)
end

-- The same, and to those that share its limits; they do not count for the next part.
function limits.refund_part(group, part, claimed, number)
    limits.refund(group, claimed, number)
    claimed.number = claimed.number - number
    if group.shard_limit then
        local since = limits.handed_out(group, 'shard_limit', claimed)
        limits.refund_lane(group, part, since, number)
    end
end

function ends.stopped(group, shard, _, message)
    notes.stop(group, shard, message)
end

-- What is told of a message that was cancelled while it ran: it does not run again.
local function end_of(outcome, told, sequence)
    local again = outcome[1] == 'back' or outcome[1] == 'retried'
    return again and told and contains(told, sequence) and 'stopped' or outcome[1]
end

-- Settles message after message; returns what is left of the claim. `claimed`: its token, how many
-- messages it has, when it was made, and what is told of it.
local function settle_each(group, parts, claimed, settlement, limit)
    local outcomes, keep, kept_parts, kept = {}, {}, {}, {}
    for _, outcome in ipairs(settlement[2]) do
        outcomes[outcome[1]] = outcome[2]
    end
    for _, sequence in ipairs(settlement[4]) do
        keep[sequence] = true
    end
    local entries, index = call('LRANGE', claim_key(claimed.token), 1, -1), 0
    for _, part in ipairs(parts) do
        local shard, running, unstarted = part[1], {part[1], part[2]}, 0
        for position = 3, #part, 2 do
            local priority, before = part[position], #kept
            for _ = 1, part[position + 1] do
                index = index + 1
                local entry = entries[index]
                local sequence = entry_sequence(entry)
                local outcome = outcomes[sequence]
                if keep[sequence] then
                    kept[#kept + 1] = entry
                elseif outcome then
                    if (outcome[1] == 'back' or outcome[1] == 'stopped') and not outcome[2] then
                        unstarted = unstarted + 1
                    end
                    ends[end_of(outcome, claimed.told, sequence)](group, shard, priority,
                        read_entry(entry), outcome, limit)
                else
                    count(group, 'done', 1)
                    unique.release_entry(group, shard, entry)
                end
            end
            if #kept > before then
                running[#running + 1] = priority
                running[#running + 1] = #kept - before
            end
        end
        if #running > 2 then
            kept_parts[#kept_parts + 1] = running
        end
        if unstarted > 0 and claimed.since then
            limits.refund_part(group, part, claimed, unstarted)
        end
        look_at(group, shard, #running == 2)
    end
    return kept_parts, kept
end

-- settlement: token, outcomes {{sequence, outcome}…}, results {{id, index in ARGV}…}, kept
-- sequences, if any what handlers told {{id, index in ARGV}…}. Returns whether the claim was still
-- held.
local function settle(settlement, limit)
    local token = settlement[1]
    local packed = call('LINDEX', claim_key(token), 0)
    if not packed then
        return false
    end
    local key, owner, lease, number, parts, since, keyed, told = unpack(cmsgpack.unpack(packed))
    local group, kept_parts, kept = known_group(key), {}, {}
    if #settlement[2] > 0 or #settlement[4] > 0 then
        load_parts(group, parts)
        kept_parts, kept = settle_each(group, parts,
            {token = token, number = number, since = since, told = told}, settlement, limit)
    else
        count(group, 'done', number)
        if keyed then
            unique.release_all(group, parts, call('LRANGE', claim_key(token), 1, -1))
        end
        if group.concurrency > 0 then
            load_parts(group, parts)
            for _, part in ipairs(parts) do
                look_at(group, part[1], true)
            end
        end
    end
    for _, item in ipairs(settlement[5] or {}) do
        note_progress(item[1], ARGV[item[2]])
    end
    for _, result in ipairs(settlement[3]) do
        finish_record(result[1], 'done', 'result', ARGV[result[2]])
    end
    if #kept == 0 then
        close_claim(token, group, number)
    elseif #kept < number then
        call('DEL', claim_key(token))
        store_claim(token, {key, owner, lease, #kept, kept_parts, since, keyed, told}, kept)
        count(group, 'running', #kept - number)
    end
    return true
end

-- Ends those of the messages that a claim is to hold that are cancelled by a note.
-- Returns what is left.
function notes.drop(group, parts, entries)
    if not notes.are_there() then
        return parts, entries
    end
    local left_parts, left, index = {}, {}, 0
    for _, part in ipairs(parts) do
        local kept_part, dropped = {part[1], part[2]}, 0
        for position = 3, #part, 2 do
            local before = #left
            for _ = 1, part[position + 1] do
                index = index + 1
                local old = entry_sequence(entries[index]) < last_note -- usually none is
                local message = old and read_entry(entries[index])
                if old and notes.means(message) then
                    notes.stop(group, part[1], message)
                    dropped = dropped + 1
                else
                    left[#left + 1] = entries[index]
                end
            end
            if #left > before then
                kept_part[#kept_part + 1] = part[position]
                kept_part[#kept_part + 1] = #left - before
            end
        end
        if #kept_part > 2 then
            left_parts[#left_parts + 1] = kept_part
        end
        if dropped > 0 then
            limits.refund_lane(group, part, now, dropped)
            look_at(group, part[1], #kept_part == 2)
        end
    end
    return left_parts, left
end

-- Taking back

local function take_back(token, limit)
    local stored = call('LRANGE', claim_key(token), 0, -1)
    if not stored[1] then -- somebody else removed it; the others must not stand still for it
        call('ZREM', CLAIMS, text(token))
        for _, queue in ipairs(call('HKEYS', T .. ':epochs')) do
            call('SREM', T .. ':back:' .. queue, text(token))
        end
        return
    end
    local key, _, _, number, parts, _, _, told = unpack(cmsgpack.unpack(stored[1]))
    local group, index = known_group(key), 1
    local singled_out = read_entry(stored[2]).cap == 1
    close_claim(token, group, number)
    count(group, 'lost', number)
    load_parts(group, parts)
    for _, part in ipairs(parts) do
        local shard = part[1]
        for position = 3, #part, 2 do
            for _ = 1, part[position + 1] do
                index = index + 1
                local message = delivered(read_entry(stored[index]), false)
                message.losses, message.cap = message.losses + 1, cap_after_loss(number)
                if told and contains(told, message.sequence) then
                    notes.stop(group, shard, message)
                elseif is_given_up(group, number, singled_out, message.losses) then
                    local told = group.members[1] and body_task(message.body) or ''
                    bury(group, shard, part[position], message, '', message.losses,
                        body_id(message.body), told, limit)
                else
                    give_back(group, shard, part[position], message)
                end
            end
        end
        look_at(group, shard, true)
    end
end

-- Takes back claims whose lease ended, `most` at most; returns how many.
local function reap_expired(most, limit)
    local tokens = call('ZRANGEBYSCORE', CLAIMS, '-inf', now - 1, 'LIMIT', 0, most)
    for _, token in ipairs(tokens) do
        take_back(tonumber(token), limit)
    end
    return #tokens
end
