-- double: give a queue as many containers again as it has; a split that is under way goes on.
--
-- KEYS  1: the home container
-- ARGV  1 slot, 2 number, 3 clock
--       4   queue
--       5   how many it is to have; 0: twice as many, unless a split is under way
-- Reply {epoch, 1 if a split is under way, numbers of its containers…}; {0}: there is no such queue
--
-- T:splits  hash  queue that is being split -> epoch
-- include container

local PLACES, SPLITS = T .. ':places', T .. ':splits'
local queue, wanted = ARGV[4], tonumber(ARGV[5])

local saved = remembered()
if saved then
    return cmsgpack.unpack(saved)
end
local packed = call('HGET', PLACES, queue)
if not packed then
    return {0}
end
local place = cmsgpack.unpack(packed)
local count, under_way = #place - 1, call('HEXISTS', SPLITS, queue)
if under_way == 0 and (wanted == 0 or wanted == 2 * count) then
    for _ = 1, count do
        place[#place + 1] = call('HINCRBY', META, 'containers', 1)
    end
    place[1], under_way = place[1] + 1, 1
    call('HSET', PLACES, queue, cmsgpack.pack(place))
    call('HSET', SPLITS, queue, place[1])
end
local reply = {place[1], under_way, unpack(place, 2)}
remember(cmsgpack.pack(reply))
return reply
