-- dead: list dead letters, oldest first, as far as one call gets.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   packed: {queue or false, task or false, numbers or false, after, upto or false,
--           limit, whether the numbers are enough}
-- Reply {number up to which it looked, 0 when that was all; `upto`, or the highest number that
--       there ever was; home says here how many other containers there are;
--       number or {number, group key, task, shard, priority, id, failure, losses, deliveries,
--       attempts, since, at, body}…}
-- include letters

local LOOKED, BYTES = 500, 4194304

local queue, task, numbers, after, upto, limit, bare = unpack(cmsgpack.unpack(ARGV[4]))

upto = upto or tonumber(call('HGET', META, 'dead') or 0)

local function is_of_queue(group)
    return not queue or group.key:sub(1, #queue + 1) == queue .. '\0'
end

-- The next numbers of all groups, in order, and the one up to which there is none beside them.
local function candidates()
    local found, whole = {}, math.huge
    for _, gid in ipairs(call('HKEYS', T .. ':names')) do
        if is_of_queue(group_of(gid)) then
            local some = call('ZRANGEBYSCORE', dead_key(gid), '(' .. text(after),
                text(upto), 'LIMIT', 0, LOOKED)
            for _, number in ipairs(some) do
                found[#found + 1] = tonumber(number)
            end
            if #some == LOOKED then
                whole = math.min(whole, tonumber(some[LOOKED]))
            end
        end
    end
    table.sort(found)
    return found, whole
end

local function named()
    local found = {}
    for _, number in ipairs(numbers) do
        if number > after and number <= upto then
            found[#found + 1] = number
        end
    end
    table.sort(found)
    return found, math.huge
end

local found, whole = (numbers and named or candidates)()
local containers = tonumber(call('HGET', META, 'containers') or 0)
local reply, bytes, looked = {0, upto, containers}, 0, 0
for _, number in ipairs(found) do
    if number > whole or #reply - 2 > limit or bytes > BYTES then
        reply[1] = looked
        return reply
    end
    looked = number
    local packed = call('HGET', LETTERS, text(number))
    local letter = packed and cmsgpack.unpack(packed)
    local group = letter and group_of(letter[1])
    if letter and is_of_queue(group) and (not task or letter[2] == task) then
        reply[#reply + 1] = bare and number or {number, group.key, unpack(letter, 2)}
        bytes = bytes + (bare and 0 or #packed)
    end
end
reply[1] = whole < math.huge and looked or 0
return reply
