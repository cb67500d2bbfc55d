-- letters: give dead letters, as far as one call gets.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   packed: {queue or false, task or false, whether the numbers are enough}
--       5…  numbers; those that are gone are passed over
-- Reply {how many of the numbers it looked at before it had read enough; in their order,
--       number or {number, group key, task, shard, priority, id, failure, losses, deliveries,
--       attempts, since, at, body, mark or nothing}…}
-- include letters

local BYTES = 4194304

local queue, task, bare = unpack(cmsgpack.unpack(ARGV[4]))
local reply, bytes = {0}, 0

-- A letter, if it is meant.
local function read(number)
    local packed = call('HGET', LETTERS, number)
    bytes = bytes + #(packed or '')
    local letter = packed and cmsgpack.unpack(packed)
    local group = letter and group_of(letter[1])
    if group and (not queue or queue_of(group.key) == queue)
        and (not task or letter[2] == task)
    then
        return {tonumber(number), group.key, unpack(letter, 2)}
    end
end

local function exists(number)
    return call('HEXISTS', LETTERS, number) == 1
end

local is_known_by_number = bare and not queue and not task
for index = 5, #ARGV do
    local found = (is_known_by_number and exists or read)(ARGV[index])
    if found then
        reply[#reply + 1] = bare and tonumber(ARGV[index]) or found
    end
    reply[1] = index - 4
    if bytes > BYTES then
        break
    end
end
return reply
