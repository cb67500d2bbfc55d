-- places: look up, and choose once, in which containers the lanes of queues are.
--
-- KEYS  1: the home container, which knows this of all
-- ARGV  1 slot, 2 number, 3 clock
--       4…  for each queue two: its name, and how many containers it is to have if it is new;
--           0: none of its own, but home
-- Reply {highest number of a container, for each queue {epoch, numbers of its containers…}}
--       TASKYARD FOREIGN <key>   that key is another application's; nothing is stored
--
-- T:places  hash  queue -> epoch and numbers, packed; a container's number is its hash tag
-- include foreign

local foreign = foreign_key()
if foreign then
    return refuse('FOREIGN', foreign)
end

local PLACES = T .. ':places'

local function chosen(wanted)
    local numbers = {}
    for index = 1, wanted do
        numbers[index] = call('HINCRBY', META, 'containers', 1)
    end
    return cmsgpack.pack({1, unpack(wanted > 0 and numbers or {0})})
end

local reply = {0}
for index = 4, #ARGV, 2 do
    local packed = call('HGET', PLACES, ARGV[index])
    if not packed then
        packed = chosen(tonumber(ARGV[index + 1]))
        call('HSET', PLACES, ARGV[index], packed)
    end
    reply[#reply + 1] = cmsgpack.unpack(packed)
end
reply[1] = tonumber(call('HGET', META, 'containers') or 0)
return reply
