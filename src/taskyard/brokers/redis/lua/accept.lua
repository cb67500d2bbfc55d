-- accept: make a new container of a queue take puts. Its lanes with a limit of claims are closed.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   queue
--       5   the new epoch
--       6   the new number of partitions
--       7   the index of this one
--       8   the last sequence of the container from where the lanes come
--       9   what it lets through, its groups, limits and what it holds, as part.lua gives them
-- Reply  1
-- include moving

local queue, epoch = ARGV[4], tonumber(ARGV[5])

if (split_of(queue)[1] or 1) >= epoch then
    return 1
end
local gate, policies, rates, bounded = unpack(cmsgpack.unpack(ARGV[9]))
rates = rates or {false, false, 1}
store_gate(queue, gate)
limits.store_queue(queue, rates)
local gids = {}
for index, group in ipairs(groups_of(queue)) do -- somebody may sleep on what is not there yet
    group.gate, group.bounds, gids[index] = gate, bounds.effective(bounded), group.gid
    limits.inherit(group, rates)
end
if bounded then
    bounds.store(queue, {bounded[1], bounded[2], gids})
end
store_split(queue, {epoch, CLOSED, tonumber(ARGV[6]), tonumber(ARGV[7])})
for _, policy in ipairs(policies) do
    local group = made_group(policy[1])
    group.size, group.within, group.bytes, group.concurrency, group.max_deliveries, group.members,
        group.declared, group.rates, group.minimum, group.lead = unpack(policy, 2)
    group.rates, group.minimum, group.lead = group.rates or nil, group.minimum or 0, group.lead or 0
    store_policy(group)
end
load_numbers()
last_sequence = math.max(last_sequence, tonumber(ARGV[8]))
store_numbers()
return 1
