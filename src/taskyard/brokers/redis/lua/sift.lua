-- sift: find out what leaves a container, page by page. What changes meanwhile is noted anyway.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   queue
--       5   epoch of the split
--       6   cursor, '' to begin
--       7   how much to look at
-- Reply the next cursor, '' at the end
-- include letters

local queue = ARGV[4]
local split = split_of(queue)
if split[1] ~= tonumber(ARGV[5]) or split[2] ~= LEAVING then
    return ''
end

local sift = {}

local function sift_lanes(group, found)
    local shards = {}
    for index = 1, #found, 2 do
        if leaves(group, found[index]) then
            shards[#shards + 1] = found[index]
        end
    end
    load_lanes(group, shards)
    for _, shard in ipairs(shards) do
        local lane = lane_of(group, shard)
        waiting(lane)
        note_leaving(lane)
    end
end
sift.r, sift.s = sift_lanes, sift_lanes

function sift.d(group, found)
    for index = 1, #found, 2 do
        local letter = cmsgpack.unpack(call('HGET', LETTERS, found[index]))
        if leaves(group, letter[3]) then
            call('ZADD', T .. ':x:' .. group.gid, found[index], found[index])
        end
    end
end

function sift.due(_, found)
    for index = 1, #found, 2 do
        local gid, _, shard = read_due(found[index])
        local group = group_of(gid)
        if queue_of(group.key) == queue and leaves(group, shard) then
            call('ZREM', DUE_KEY, found[index])
            call('ZADD', away_key(group), found[index + 1], found[index])
        end
    end
end

function sift.claims(_, found)
    for index = 1, #found, 2 do
        local packed = call('LINDEX', T .. ':c:' .. found[index], 0)
        local key, _, _, _, parts = unpack(packed and cmsgpack.unpack(packed) or {''})
        if queue_of(key) == queue then
            note_claim(found[index], known_group(key), parts)
        end
    end
end

local plan = {}
for _, group in ipairs(groups_of(queue)) do
    plan[#plan + 1] = {'r:' .. group.gid, 'ZSCAN', group.ready_key, group}
    plan[#plan + 1] = {'s:' .. group.gid, 'HSCAN', group.state_key, group}
    plan[#plan + 1] = {'d:' .. group.gid, 'ZSCAN', dead_key(group.gid), group}
end
plan[#plan + 1] = {'due', 'ZSCAN', DUE_KEY}
plan[#plan + 1] = {'claims', 'ZSCAN', T .. ':claims'}

local cursor, item, found = page_of(plan, ARGV[6], ARGV[7])
sift[item[1]:match('^%a+')](item[4], found)
if cursor == '' then
    split[5] = true
    store_split(queue, split)
end
return cursor
