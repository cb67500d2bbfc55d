-- Claims: leased messages, and how they end.
--
-- T:claims     zset  token -> deadline
-- T:c:<token>  list  first packed: group key, owner, lease, number of messages, and per lane
--                    {shard, flush, priority, number of messages, priority, number…}, and where
--                    a rate is limited when it was made; then the entries, in that order
-- include letters
-- include envelope

local CLAIMS = T .. ':claims'

local function claim_key(token)
    return T .. ':c:' .. text(token)
end

local function store_claim(token, header, entries)
    local values = {cmsgpack.pack(header)}
    for index, entry in ipairs(entries) do
        values[index + 1] = entry
    end
    spread('RPUSH', claim_key(token), values)
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
        postpone_record(outcome[3], due, ordered)
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

function ends.discard(group, _, _, _, outcome)
    count(group, 'discarded', 1)
    finish_record(outcome[2], 'discarded')
end

-- Gives back the tokens of messages of a part that came back and were not started.
function limits.refund_part(group, part, claimed, number)
    local lane, of_part = lane_of(group, part[1]), 0
    for position = 4, #part, 2 do
        of_part = of_part + part[position]
    end
    limits.refund(group, claimed.since, claimed.number, number)
    claimed.number = claimed.number - number
    if group.shard_limit then
        lane.tat = gcra.refund(lane.tat, group.shard_limit, claimed.since, of_part, number)
        changed(lane)
    end
end

-- Settles message after message; returns what is left of the claim. `claimed`: how many messages
-- it has, and when it was made.
local function settle_each(group, token, parts, claimed, settlement, limit)
    local outcomes, keep, kept_parts, kept = {}, {}, {}, {}
    for _, outcome in ipairs(settlement[2]) do
        outcomes[outcome[1]] = outcome[2]
    end
    for _, sequence in ipairs(settlement[4]) do
        keep[sequence] = true
    end
    local entries, index = call('LRANGE', claim_key(token), 1, -1), 0
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
                    if outcome[1] == 'back' and not outcome[2] then
                        unstarted = unstarted + 1
                    end
                    ends[outcome[1]](group, shard, priority, read_entry(entry), outcome, limit)
                else
                    count(group, 'done', 1)
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
-- sequences. Returns whether the claim was still held.
local function settle(settlement, limit)
    local token = settlement[1]
    local packed = call('LINDEX', claim_key(token), 0)
    if not packed then
        return false
    end
    local key, owner, lease, number, parts, since = unpack(cmsgpack.unpack(packed))
    local group, kept_parts, kept = known_group(key), {}, {}
    if #settlement[2] > 0 or #settlement[4] > 0 then
        load_parts(group, parts)
        kept_parts, kept = settle_each(group, token, parts, {number = number, since = since},
            settlement, limit)
    else
        count(group, 'done', number)
        if group.concurrency > 0 then
            load_parts(group, parts)
            for _, part in ipairs(parts) do
                look_at(group, part[1], true)
            end
        end
    end
    for _, result in ipairs(settlement[3]) do
        finish_record(result[1], 'done', 'result', ARGV[result[2]])
    end
    if #kept == 0 then
        close_claim(token, group, number)
    elseif #kept < number then
        call('DEL', claim_key(token))
        store_claim(token, {key, owner, lease, #kept, kept_parts, since}, kept)
        count(group, 'running', #kept - number)
    end
    return true
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
    local key, _, _, number, parts = unpack(cmsgpack.unpack(stored[1]))
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
                if is_given_up(group, number, singled_out, message.losses) then
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
