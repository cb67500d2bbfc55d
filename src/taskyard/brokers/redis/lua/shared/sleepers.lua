-- Sleepers: idle workers, and who is woken when there is something to do.
--
-- T:sleepers  hash  listener -> packed: time at which it wakes by itself, gids, known members,
--                   time at which it fell asleep, whether it may listen on another node
-- T:i:<gid>   zset  listener -> order in which they fell asleep
--
-- A listener is the channel on which it listens.
-- include due

local SLEEPERS = T .. ':sleepers'

-- Takes a sleeper from the lines that it stands in; what it serves stays known until it works
-- or leaves, so that a wake-up can be handed on.
local function leave_lines(name)
    local packed = call('HGET', SLEEPERS, name)
    local sleeper = packed and cmsgpack.unpack(packed)
    for _, gid in ipairs(sleeper and sleeper[2] or {}) do
        call('ZREM', T .. ':i:' .. gid, name)
    end
    return sleeper
end

local function forget_sleeper(name)
    local sleeper = leave_lines(name)
    if sleeper then
        call('HDEL', SLEEPERS, name)
    end
    return sleeper
end

-- Registers a worker that found nothing; `served`: groups; `afar`: it may listen on another node.
local function fall_asleep(name, served, members, at, afar)
    forget_sleeper(name)
    local order = call('HINCRBY', META, 'asleep', 1)
    local gids, known = {}, {}
    for _, group in ipairs(served) do
        local gid = group.gid
        gids[#gids + 1] = gid
        call('ZADD', T .. ':i:' .. gid, order, name)
        if members[gid] and next(members[gid]) then
            known[gid] = members[gid]
        end
    end
    call('HSET', SLEEPERS, name, cmsgpack.pack({at, gids, known, now, afar or nil}))
end

-- Who waits for the next instant of a schedule stands in the line of a group without lanes.
--
-- T:agenda  zset  name of a schedule -> when somebody has to look at it (see schedules.lua)
local AGENDA, SCHEDULES = T .. ':agenda', '\0schedules'

local function next_schedule_at()
    return tonumber(call('ZRANGE', AGENDA, 0, 0, 'WITHSCORES')[2] or 0)
end

-- Leaves to others what is ready in groups, and the times that wait for somebody.
local function pass_on(served)
    if call('EXISTS', SLEEPERS) == 0 then
        return
    end
    local lanes_at = next_at()
    for _, group in ipairs(served) do
        local at = group.key == SCHEDULES and next_schedule_at() or lanes_at
        note_ready(group)
        if at > 0 then
            note_time(group, at)
        end
    end
end

-- Waking. (Lua allows 200 locals in the open; this has a block of its own.)

local announce
do
    -- Microseconds. A worker that lives registers again every ten seconds, or earlier. One that
    -- does not may be gone: PUBLISH also counts who was cut off and is not missed yet, and does not
    -- count who listens on another node.
    local SILENT = 15 * 1000000

    local function serves(sleeper, group)
        return #group.members == 0 or knows(sleeper[3][group.gid] or {}, group)
    end

    local function is_alive(sleeper)
        return sleeper[4] + SILENT >= now
    end

    -- Wakes a sleeper; returns whether that can be relied on, as far as can be known.
    local function wake(name, sleeper)
        leave_lines(name)
        return (publish(name) > 0 or sleeper[5]) and is_alive(sleeper)
    end

    -- Wakes the one that has slept longest; those that cannot be relied on are forgotten.
    local function wake_one(group)
        local key = T .. ':i:' .. group.gid
        for _, name in ipairs(call('ZRANGE', key, 0, 63)) do
            local packed = call('HGET', SLEEPERS, name)
            local sleeper = packed and cmsgpack.unpack(packed)
            if not sleeper then
                call('ZREM', key, name)
            elseif serves(sleeper, group) then
                if wake(name, sleeper) then
                    return
                end
                call('HDEL', SLEEPERS, name)
            end
        end
    end

    local function wakes_in_time(group, at)
        for _, name in ipairs(call('ZRANGE', T .. ':i:' .. group.gid, 0, 63)) do
            local packed = call('HGET', SLEEPERS, name)
            local sleeper = packed and cmsgpack.unpack(packed)
            if sleeper and sleeper[1] > 0 and sleeper[1] <= at and is_alive(sleeper)
                    and serves(sleeper, group) then
                return true
            end
        end
        return false
    end

    -- Whether a worker would get something of a group, as far as that shows.
    local function has_claimable(group)
        if group.gate == PAUSED then
            return false
        end
        return call('EXISTS', group.ready_key) == 1
            or group.gate == DRAINING and call('EXISTS', group.filling_key) == 1
    end

    -- Wakes whom the script concerns.
    function announce()
        if (#ready_order == 0 and #time_order == 0) or call('EXISTS', SLEEPERS) == 0 then
            return
        end
        for _, group in ipairs(ready_order) do
            local at = has_claimable(group) and limits.token_at(group)
            if at and at > now then
                note_time(group, at)
            elseif at then
                wake_one(group)
                news_time[group.gid] = nil
            end
        end
        for _, group in ipairs(time_order) do
            local at = news_time[group.gid]
            if at and group.gate ~= PAUSED and not wakes_in_time(group, at) then
                wake_one(group)
            end
        end
    end
end

-- Ends a script that may have changed something.
local function store()
    unique.store()
    store_lanes()
    for _, group in ipairs(touched_groups) do
        add_ready(group)
    end
    store_counts()
    store_numbers()
    limits.store()
    announce()
end
