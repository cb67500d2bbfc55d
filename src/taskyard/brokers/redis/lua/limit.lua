-- limit: set a rate limit: that of a group, of each of its shards, or of a queue; there first for
-- groups that are made later, then page by page for those that are there.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   packed: {queue, group key or '', whether it is that of each shard, limit or false,
--           whether a program declares it (of a queue only; else it is set at run time), number
--           of partitions by which those of groups and queues are divided}
--           limit: {count, per (microseconds), burst}, {0, 0, 0}: it is lifted
--       5   gid after which to go on, 0 to begin
-- Reply gid to go on after, 0 at the end. Who set that of shards has their lanes settled anew
-- include sleepers
-- include paging

local saved = remembered()
if saved then
    return tonumber(saved)
end

local queue, key, shards, rate, declared, parts = unpack(cmsgpack.unpack(ARGV[4]))
local after, upto, here = tonumber(ARGV[5]), 0, {}

local function set_of_group()
    local group = made_group(key)
    local index = shards and limits.CHANGED_SHARD_RATE or limits.CHANGED_RATE
    if limits.set(group, {[index] = rate, [limits.PARTS] = parts}) then
        store_policy(group)
    end
    limits.clamp(group.gid, group.limit)
    here = {group}
end

local function set_of_queue()
    local stored = limits.of_queue(queue)
    if after == 0 then
        stored = {declared and rate or stored[1], not declared and rate or stored[2], parts}
        if not rate then
            stored[declared and 1 or 2] = false
        end
        limits.store_queue(queue, stored)
    end
    here, upto = page_of_queue(queue, after)
    for _, group in ipairs(here) do
        if limits.inherit(group, stored) then
            store_policy(group)
        end
    end
    limits.clamp(limits.queue_field(queue),
        gcra.read(stored[2] or stored[1], here[1] and here[1].partitions or stored[3]))
end

if key ~= '' then
    set_of_group()
else
    set_of_queue()
end
pass_on(here) -- what it let nobody have may be anybody's now
store()
remember(text(upto))
return upto
