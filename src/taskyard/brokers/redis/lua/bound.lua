-- bound: say how much a queue holds: first to groups that are made later, then page by page to
-- those that are there.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   queue
--       5   1: what a program declares, 2: what is chosen at run time
--       6   packed: false (nothing is said any more), or as shared/bounds.lua says
--       7   gid after which to go on, 0 to begin
-- Reply gid to go on after, 0 at the end
-- include paging

local saved = remembered()
if saved then
    return tonumber(saved)
end

local queue, after = ARGV[4], tonumber(ARGV[7])
local stored = bounds.stored(queue) or {false, false, {}}
if after == 0 then
    stored[tonumber(ARGV[5])] = cmsgpack.unpack(ARGV[6])
end

local known = {}
for _, gid in ipairs(stored[3]) do
    known[gid] = true
end
local here, upto = page_of_queue(queue, after)
for _, group in ipairs(here) do
    group.bounds = bounds.effective(stored)
    store_policy(group)
    if not known[group.gid] then
        table.insert(stored[3], group.gid)
    end
end
bounds.store(queue, stored)
remember(text(upto))
return upto
