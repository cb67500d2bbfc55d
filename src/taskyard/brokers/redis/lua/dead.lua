-- dead: find the numbers of dead letters, group by group, as far as one call gets.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   packed: {queue or false, task or false, after, upto or false, gid, number}
--           after, upto: only numbers above this one, and up to that one
--           gid, number: the group, and after which of its letters, to go on; 0, 0 to begin
-- Reply {gid, number to go on with; 0, 0 at the end; the highest number that there ever was;
--       home says here how many other containers there are; numbers, of each group in order…}
-- include letters

-- How many numbers one call looks at, in how many groups; bytes of letters that it reads.
local LOOKED, GROUPS, BYTES = 500, 250, 4194304

local queue, task, after, upto, first, passed = unpack(cmsgpack.unpack(ARGV[4]))

local found = call('HMGET', META, 'dead', 'containers', 'groups')
local last = tonumber(found[3] or 0)
local reply = {0, 0, tonumber(found[1] or 0), tonumber(found[2] or 0)}
local looked, bytes = 0, 0

local function is_of_queue(gid)
    return not queue or queue_of(call('HGET', T .. ':names', gid) or '') == queue
end

local function is_of_task(number)
    if not task then
        return true
    end
    local packed = call('HGET', LETTERS, number)
    bytes = bytes + #(packed or '')
    return packed and cmsgpack.unpack(packed)[2] == task
end

-- Returns the number at which it had looked at enough, nil if there are no more in the group.
local function look_into(gid, above)
    local numbers = call('ZRANGEBYSCORE', dead_key(gid), '(' .. text(above),
        upto and text(upto) or '+inf', 'LIMIT', 0, LOOKED - looked)
    for _, number in ipairs(numbers) do
        looked = looked + 1
        if is_of_task(number) then
            reply[#reply + 1] = tonumber(number)
        end
        if looked == LOOKED or bytes > BYTES then
            return tonumber(number)
        end
    end
end

for gid = math.max(1, first), last do
    if gid >= first + GROUPS then
        reply[1] = gid
        break
    end
    local above = gid == first and math.max(after, passed) or after
    local number = is_of_queue(text(gid)) and look_into(text(gid), above)
    if number then
        reply[1], reply[2] = gid, number
        break
    end
end
return reply
