-- Usage: about how many bytes the messages of a group take. Lanes and their
-- priorities are sampled.
-- include letters

local SAMPLED = 8

-- 0 where the server does not tell, or the user may not ask.
local function usage(key)
    local answer = redis.pcall('MEMORY', 'USAGE', key)
    return type(answer) == 'number' and answer or 0
end

local function share(key, of, number)
    local size = number > 0 and call(of, key) or 0
    return size > 0 and usage(key) * number / size or 0
end

local function lane_usage(group, shards, lanes)
    local bytes, sampled = 0, 0
    for _, shard in ipairs(shards) do
        local lane = lane_of(group, shard)
        local number, of_lane = math.min(#lane.priorities, SAMPLED), 0
        for index = 1, number do
            local priority = lane.priorities[index]
            of_lane = of_lane + usage(list_key(lane, priority))
            if contains(lane.back, priority) then
                of_lane = of_lane + usage(back_key(lane, priority))
            end
        end
        bytes = bytes + of_lane * #lane.priorities / number
        sampled = sampled + 1
    end
    return sampled > 0 and bytes / sampled * lanes or 0
end

local function group_usage(group, counters)
    local shards = call('ZRANGE', group.ready_key, 0, SAMPLED - 1)
    if #shards == 0 then
        shards = call('HRANDFIELD', group.state_key, SAMPLED)
    end
    local bytes = lane_usage(group, shards, tonumber(counters.lanes or 0))
    bytes = bytes + usage(group.ready_key) + usage(group.state_key) + usage(group.filling_key)
    bytes = bytes + share(DUE_KEY, 'ZCARD', tonumber(counters.delayed or 0))
    local dead = call('ZCARD', dead_key(group.gid))
    bytes = bytes + share(LETTERS, 'HLEN', dead) + share(BURIED, 'ZCARD', dead)
    return bytes + usage(dead_key(group.gid))
end
