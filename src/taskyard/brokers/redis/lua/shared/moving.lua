-- What leaves a container while its queue is split; see docs/decisions/0006-partitions.md.
--
-- T:m:<gid>        set   shards of which something is to leave
-- T:x:<gid>        zset  numbers of dead letters that are to leave
-- T:back:<queue>   set   tokens of open claims that can bring something back that is to leave
-- T:away:<queue>   zset  as `T:due`: messages outside their lanes that are to leave
-- T:slot:<queue>   packed {number, things}: what is on its way; see export.lua
-- T:imported       hash  queue -> number of the last that came
-- include groups

local crc_steps

local function crc32(value)
    crc_steps = crc_steps or {0, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
        0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0,
        0x86d3d2d4, 0xa00ae278, 0xbdbdf21c}
    local crc = -1
    for index = 1, #value do
        crc = bit.bxor(crc, value:byte(index))
        crc = bit.bxor(bit.rshift(crc, 4), crc_steps[bit.band(crc, 15) + 1])
        crc = bit.bxor(bit.rshift(crc, 4), crc_steps[bit.band(crc, 15) + 1])
    end
    return bit.bnot(crc) % 2 ^ 32
end

-- Whether a shard is in another container, or on its way there.
local function is_elsewhere(group, shard)
    return group.partitions and crc32(shard) % group.partitions ~= group.index
end

local function leaves(group, shard)
    return group.phase == LEAVING and is_elsewhere(group, shard)
end

-- Notes whether an open claim of these lanes can bring something back that is to leave.
local function note_claim(token, group, parts)
    if group.phase ~= LEAVING then
        return
    end
    local command = 'SREM'
    for _, part in ipairs(parts) do
        if leaves(group, part[1]) then
            command = 'SADD'
            break
        end
    end
    call(command, T .. ':back:' .. queue_of(group.key), text(token))
end

local function away_key(group)
    return T .. ':away:' .. queue_of(group.key)
end

-- The groups of a queue, in the order in which they were made.
local function groups_of(queue)
    local found, names = {}, call('HGETALL', T .. ':names')
    for index = 1, #names, 2 do
        if queue_of(names[index + 1]) == queue then
            found[#found + 1] = known_group(names[index + 1])
        end
    end
    table.sort(found, function(one, other) return one.number < other.number end)
    return found
end

local function store_split(queue, split)
    call('HSET', T .. ':epochs', queue, cmsgpack.pack(split))
    for _, group in ipairs(groups_of(queue)) do
        group.epoch, group.phase, group.partitions, group.index = unpack(split, 1, 4)
        limits.read_changed(group) -- its parts of them may be others
        store_policy(group)
    end
end

-- Goes through collections page by page. `plan`: of each a name without blanks, the command, the
-- key, and what it is. `cursor`: '' to begin with. Returns the next one, '' at the end; what the
-- collection is; the page.
local function page_of(plan, cursor, size)
    local name, scanned = cursor:match('^(%S+) (%d+)$')
    local at = 1
    for index, item in ipairs(plan) do
        if item[1] == name then
            at = index
        end
    end
    local item = plan[at]
    if not item then
        return '', nil, {}
    end
    local found = call(item[2], item[3], scanned or '0', 'COUNT', size)
    if found[1] ~= '0' then
        return item[1] .. ' ' .. found[1], item, found[2]
    end
    local following = plan[at + 1]
    return following and following[1] .. ' 0' or '', item, found[2]
end
