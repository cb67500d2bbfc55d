-- Schedules: kept by name, changed by comparing their revision. All of them are at home.
--
-- T:schedules      hash  name -> packed: revision, pending, last, paused, rule, marked, number of
--                        the last change with messages that was made
-- T:schedulenames  zset  the names, all with 0
-- T:agenda         zset  name -> when somebody has to look at it: its pending instant; while a
--                        change with messages is under way, when others may finish that
-- T:changes        hash  name -> packed: number, epoch, new {pending, last, paused, rule} or false
--                        (it is removed), put, marked: a change that is under way; or, with epoch
--                        0, what is left of a schedule that is no more; if messages went with its
--                        removal, under the number of that
-- T:removed        zset  name of such a one -> when its marks may go
--
-- A change whose messages go to whatever container (which is told by its put) is first written
-- down here with a number; then the container stores the messages, once, and keeps the number as
-- a mark; then the change is made here. So anybody can finish it, any number of times, and whoever
-- comes too late finds the mark. `marked`: the containers that have one of the schedule.
-- include sleepers

local CHANGES, REMOVED = T .. ':changes', T .. ':removed'

-- Microseconds for which a change is left to who began it; then anybody finishes it.
local PATIENCE = 2 * 1000000
-- As long may somebody be on the way who believes that a change is not made yet.
local KEPT = REMEMBERED * 1000000

local function schedule_of(name)
    local packed = call('HGET', T .. ':schedules', name)
    if packed then
        local schedule = {}
        schedule.revision, schedule.pending, schedule.last, schedule.paused, schedule.rule,
            schedule.marked, schedule.made = unpack(cmsgpack.unpack(packed))
        return schedule
    end
end

local function change_of(name)
    local packed = call('HGET', CHANGES, name)
    if packed then
        local change = {}
        change.number, change.epoch, change.new, change.put, change.marked =
            unpack(cmsgpack.unpack(packed))
        return change
    end
end

local function is_under_way(change)
    return change and change.epoch > 0
end

local function store_change(name, change)
    call('HSET', CHANGES, name, cmsgpack.pack({change.number, change.epoch, change.new, change.put,
        change.marked}))
end

local function drop_change(name)
    call('HDEL', CHANGES, name)
    call('ZREM', REMOVED, name)
end

-- What a reply says of a schedule.
local function shown(name)
    local schedule = schedule_of(name)
    return schedule and {name, schedule.rule, schedule.pending, schedule.last,
        schedule.paused and 1 or 0, schedule.revision} or false
end

local function store_schedule(name, schedule)
    call('HSET', T .. ':schedules', name, cmsgpack.pack({schedule.revision, schedule.pending,
        schedule.last, schedule.paused, schedule.rule, schedule.marked, schedule.made}))
    call('ZADD', T .. ':schedulenames', 0, name)
    if schedule.pending > 0 and not schedule.paused then
        call('ZADD', AGENDA, schedule.pending, name)
    else
        call('ZREM', AGENDA, name)
    end
    drop_change(name)
end

-- Its marks stay for a while: those who still put for it must find them. `number`: of the change
-- that removed it, nil if no messages went with that.
local function drop_schedule(name, marked, number)
    call('HDEL', T .. ':schedules', name)
    call('ZREM', T .. ':schedulenames', name)
    call('ZREM', AGENDA, name)
    drop_change(name)
    if #marked > 0 then
        store_change(name, {number = number or sequences(1), epoch = 0, new = false, put = '',
            marked = marked})
        store_numbers()
        call('ZADD', REMOVED, now + KEPT, name)
    end
end

-- Makes a schedule what it is to be. `old`: what it is, if it is there; `number`: of the change,
-- nil if no messages go with it.
local function make_change(name, old, new, marked, number)
    if not new then
        drop_schedule(name, marked, number)
        return
    end
    local schedule = {revision = (old and old.revision or 0) + 1, marked = marked,
        made = number or old and old.made or 0}
    schedule.pending, schedule.last, schedule.paused, schedule.rule = unpack(new)
    store_schedule(name, schedule)
    local group = known_group(SCHEDULES) -- else nobody sleeps there
    if group and schedule.pending > 0 and not schedule.paused then
        note_time(group, schedule.pending)
    end
end
