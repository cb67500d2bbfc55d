-- part: let the lanes of other partitions leave a container: from now on it refuses puts of callers
-- that do not know of the split.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   queue
--       5   the new epoch
--       6   the new number of partitions
--       7   the index of this one
-- Reply {last sequence, 1 if it is at it (0: it is through), 1 if it knows all that leaves,
--       packed: what the queue lets through; of each group key, size, within, bytes, concurrency,
--       max_deliveries, members, declared, its rate limits, if it has some, minimum and lead of its
--       batches, if they have them (then without limits false stands); the limits of the queue (see
--       shared/limits.lua), and how much it holds (see shared/bounds.lua): false or none if nothing
--       was said of that}
-- include sleepers

local queue, epoch = ARGV[4], tonumber(ARGV[5])
-- Others look again by themselves in a few seconds.
local WOKEN = 1000

-- They do not know yet that they have to look elsewhere too.
local function wake_all(group)
    for _, name in ipairs(call('ZRANGE', T .. ':i:' .. group.gid, 0, WOKEN - 1)) do
        leave_lines(name)
        publish(name)
    end
end

-- The part of the queue's limit that is this container's gets smaller.
local function divide_bounds(partitions)
    local stored = bounds.stored(queue)
    if not stored then
        return
    end
    for index = 1, 2 do
        if stored[index] then
            stored[index][bounds.PARTITIONS] = partitions
        end
    end
    bounds.store(queue, stored)
    for _, group in ipairs(groups_of(queue)) do
        group.bounds = bounds.effective(stored)
    end
end

local split = split_of(queue)
if (split[1] or 1) < epoch then
    split = {epoch, LEAVING, tonumber(ARGV[6]), tonumber(ARGV[7]), false}
    divide_bounds(split[3])
    store_split(queue, split)
    for _, group in ipairs(groups_of(queue)) do
        wake_all(group)
    end
end
local policies = {}
for index, group in ipairs(groups_of(queue)) do
    policies[index] = {group.key, group.size, group.within, group.bytes, group.concurrency,
        group.max_deliveries, group.members, group.declared, group.rates}
    if is_patient(group) then
        policies[index][9] = group.rates or false
        policies[index][10], policies[index][11] = group.minimum, group.lead
    end
end
local told = {gate_of(queue), policies, limits.stored_of_queue(queue)}
local bounded = bounds.stored(queue)
if bounded then
    told[3], told[4] = told[3] or false, bounded
end
load_numbers()
local is_leaving = split[1] == epoch and split[2] == LEAVING
return {last_sequence, is_leaving and 1 or 0, split[5] and 1 or 0, cmsgpack.pack(told)}
