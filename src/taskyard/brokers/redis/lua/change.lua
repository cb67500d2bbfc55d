-- change: change a schedule that is still as it was; if messages go with that, only begin to.
--
-- KEYS  1: the home container
-- ARGV  1 slot, 2 number, 3 clock
--       4   packed: name, its revision (0: it must not be there), what it is to be {pending, last,
--           paused} or false (it is removed), and with messages the epoch of their queue's
--           placement, else 0
--       5   its rule
--       6   the messages, as the caller wants to find them again
-- Reply {1}: it was changed; {0}: it is not as it was
--       {2, number}: the change has begun. The caller lets the messages be stored as a lot of that
--           number, then calls changed.lua
--       {3, number, epoch, messages}: another one has begun, and is to be finished first
-- include schedules

local CHANGED, OUTDATED, BEGUN, UNDER_WAY = 1, 0, 2, 3

local saved = remembered()
if saved then
    return cmsgpack.unpack(saved)
end

local name, revision, new, epoch = unpack(cmsgpack.unpack(ARGV[4]))
local old, change = schedule_of(name), change_of(name)
if (old and old.revision or 0) ~= revision then
    return {OUTDATED}
elseif is_under_way(change) then
    return {UNDER_WAY, change.number, change.epoch, change.put}
end

if new then
    new[4] = ARGV[5]
end
local marked = old and old.marked or change and change.marked or {}
local reply = {CHANGED}
if epoch > 0 then
    reply = {BEGUN, sequences(1)}
    store_numbers()
    store_change(name, {number = reply[2], epoch = epoch, new = new, put = ARGV[6],
        marked = marked})
    call('ZREM', REMOVED, name)
    call('ZADD', AGENDA, now + PATIENCE, name)
else
    make_change(name, old, new, marked)
    announce()
end
remember(cmsgpack.pack(reply))
return reply
