-- waiting: look at what waits in a lane; nothing is changed.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   group key
--       5   shard
--       6   priority, or '': the numbers of all
--       7   how many messages to pass over, with a priority
--       8   how many are read at most, in that case
-- Reply {priority, number of messages, …}, or {entry…} in order
-- include lanes

local group = known_group(ARGV[4])
if not group then
    return {}
end
local lane, reply = lane_of(group, ARGV[5]), {}

local function numbers(priority)
    local back = contains(lane.back, priority) and call('ZCARD', back_key(lane, priority)) or 0
    return back, call('LLEN', list_key(lane, priority))
end

if ARGV[6] == '' then
    for _, priority in ipairs(lane.priorities) do
        local back, fresh = numbers(priority)
        if back + fresh > 0 then
            reply[#reply + 1] = priority
            reply[#reply + 1] = back + fresh
        end
    end
    return reply
end

-- What came back is older than what was never taken.
local priority, first, left = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local back = numbers(priority)
if first < back and left > 0 then
    reply = call('ZRANGE', back_key(lane, priority), first, math.min(back, first + left) - 1)
end
left = left - #reply
if left > 0 then
    local start = math.max(0, first - back)
    for _, entry in ipairs(call('LRANGE', list_key(lane, priority), start, start + left - 1)) do
        reply[#reply + 1] = entry
    end
end
return reply
