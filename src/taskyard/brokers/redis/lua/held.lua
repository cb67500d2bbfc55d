-- held: say which unique keys are held of shards that leave a container, page by page. Debounced
-- messages bring theirs along.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   queue
--       5   cursor, '0' to begin
--       6   how much to look at
-- Reply {the next cursor, '' at the end; packed: of each key that, its group's, shard, value}
-- include unique

local queue = ARGV[4]
local found = call('HSCAN', unique.KEYS, ARGV[5], 'COUNT', ARGV[6])
local held = {}
for index = 1, #found[2], 2 do
    local number, length, first = struct.unpack('>I4I2', found[2][index])
    local group = group_of(text(number))
    local shard = found[2][index]:sub(first, first + length - 1)
    local value = found[2][index + 1]
    if queue_of(group.key) == queue and leaves(group, shard)
        and value:sub(1, 1) ~= unique.DEBOUNCED
    then
        held[#held + 1] = {found[2][index]:sub(first + length), group.key, shard, value}
    end
end
return {found[1] ~= '0' and found[1] or '', cmsgpack.pack(held)}
