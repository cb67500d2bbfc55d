-- collect: give a lot of what was pushed into an inbox, the same again until it is confirmed.
--
-- KEYS  1: the container of an inbox. Its hash tag is the name of the inbox: the list that others
--       push to, which is in the same hash slot. (That of a bare inbox is the name of a queue, and
--       may be a number: such a container may be one of the queues', which has no keys like these)
-- ARGV  1 slot, 2 number, 3 clock
--       4   the number of a lot that was stored, 0: none
--       5   the epoch of the queue's placement, for a new lot
--       6   who asks: another one has to wait for a lot that was just given out
--       7   values of a lot, at most
--       8   bytes after which a lot is full
-- Reply {number, epoch, values, oldest first…}; without values: another one is at it; nil: nothing
--
-- T:out    list  the lot under way, oldest first
-- T:woken  list  what went over to whoever waited for it, oldest last; it is older than the inbox
-- T:lot    hash  of the lot under way: number, epoch, plan (see plan.lua), courier, until
-- include container

local OUT, WOKEN, LOT = T .. ':out', T .. ':woken', T .. ':lot'
local inbox = T:match('{(.*)}$')
-- Microseconds for which a lot is left to whom it was given; then it is given to anybody.
local PATIENCE = 2000000

local lot = call('HMGET', LOT, 'number', 'epoch', 'courier', 'until')

if lot[1] == ARGV[4] then
    call('DEL', OUT, LOT)
    lot = {}
end

local function give(number, epoch, values)
    call('HSET', LOT, 'courier', ARGV[6], 'until', text(now + PATIENCE))
    return {number, epoch, unpack(values)}
end

if lot[1] then
    if lot[3] ~= ARGV[6] and now < tonumber(lot[4]) then
        return {tonumber(lot[1]), tonumber(lot[2])}
    end
    return give(tonumber(lot[1]), tonumber(lot[2]), call('LRANGE', OUT, 0, -1))
end

-- What a call that failed halfway has moved belongs to this lot.
local most, left, values = tonumber(ARGV[7]), tonumber(ARGV[8]), call('LRANGE', OUT, 0, -1)
for _, source in ipairs({WOKEN, inbox}) do
    while #values < most and left > 0 do
        local value = call('LMOVE', source, OUT, 'RIGHT', 'RIGHT')
        if not value then
            break
        end
        values[#values + 1] = value
        left = left - #value
    end
end
if #values == 0 then
    return false
end
-- A clock value: it rises even if a server that took over has not heard of the last lots.
local number = sequences(1)
store_numbers()
call('HSET', LOT, 'number', text(number), 'epoch', ARGV[5])
return give(number, tonumber(ARGV[5]), values)
