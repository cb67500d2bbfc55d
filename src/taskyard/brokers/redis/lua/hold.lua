-- hold: hold unique keys of shards that come to a new container, before it takes puts.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   queue
--       5   the new epoch
--       6   what is held, as held.lua gives it; packed {}: nothing, it only asks
-- Reply  1: they are held; 0: it takes puts already, and knows better by now
-- include unique

if (split_of(ARGV[4])[1] or 1) >= tonumber(ARGV[5]) then
    return 0
end
for _, item in ipairs(cmsgpack.unpack(ARGV[6])) do
    local key, group, shard, value = unpack(item)
    local field = unique.field(made_group(group), shard, key)
    call('HSET', unique.KEYS, field, value)
    if value:sub(1, 1) == unique.WINDOW then
        call('ZADD', unique.WINDOWS, (struct.unpack('>I8', value, 2)), field)
    end
end
return 1
