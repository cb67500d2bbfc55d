-- agenda: say which schedules are due, and what others began and have left; or sleep.
--
-- KEYS  1: the home container
-- ARGV  1 slot, 2 number, 3 clock
--       4   how many of each at most
--       5   a listener to wake when something becomes due earlier than the reply says, or ''
--       6   1 if it may listen on another node
-- Reply {now, if nothing is due the first time at which something will be (0: never), what was
--       left {{name, number, epoch, messages}…}, removed ones whose marks may go {{name, number,
--       containers…}…}, schedules that are due {{name, rule, pending, last, 1 if paused,
--       revision}…}}
--       What was left is given to nobody else for a while.
-- include schedules

local function due_of(key)
    return call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, ARGV[4])
end

local found, left, removed = {}, {}, {}
for _, name in ipairs(due_of(AGENDA)) do
    local change = change_of(name)
    if is_under_way(change) then
        call('ZADD', AGENDA, now + PATIENCE, name)
        left[#left + 1] = {name, change.number, change.epoch, change.put}
    else
        found[#found + 1] = shown(name)
    end
end
for _, name in ipairs(due_of(REMOVED)) do
    local change = change_of(name)
    call('ZADD', REMOVED, now + PATIENCE, name)
    removed[#removed + 1] = {name, change.number, unpack(change.marked)}
end

local at = #found == 0 and next_schedule_at() or 0
if ARGV[5] ~= '' then
    if #found > 0 then
        forget_sleeper(ARGV[5])
    else
        fall_asleep(ARGV[5], {made_group(SCHEDULES)}, {}, at, ARGV[6] == '1')
    end
end
return {now, at, left, removed, found}
