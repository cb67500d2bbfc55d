-- declare: store the policy of a group.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   packed: {group key, size, within, bytes, concurrency, max_deliveries, members,
--           whether to replace what is stored, epoch of the placement that the caller knows (by
--           default 1), rate limit, that of each shard (see limit.lua), number of partitions,
--           minimum, lead (microseconds; by default 0)}
-- Reply {1 if lanes must be settled anew}
--       {-1, the stored policy packed, messages that are there}: it conflicts, nothing is stored
--       {2} or {3}: nothing is stored, as put.lua says
--       TASKYARD FOREIGN <key>   that key is another application's; nothing is stored
-- include sleepers
-- include foreign

local foreign = foreign_key()
if foreign then
    return refuse('FOREIGN', foreign)
end

local saved = remembered()
if saved then
    return {tonumber(saved)}
end

local key, size, within, bytes, concurrency, max_deliveries, members, replace, epoch, rate,
    shard_rate, parts, minimum, lead = unpack(cmsgpack.unpack(ARGV[4]))
minimum, lead = minimum or 0, lead or 0
local conflict = epoch_conflict(key, epoch or 1)
if conflict then
    return {conflict}
end
local group = made_group(key)
local there = present(group)

if group.declared and group.concurrency ~= concurrency and there > 0 then
    return {-1, call('HGET', T .. ':groups', key), there}
end

-- Claims are counted by lane only where they are limited; from here on they are. Workers declare
-- what they serve before they claim, so there are hardly ever some before. All open claims are read
-- then: one for each slot of a worker that is busy, so some thousands at most; a thousand of this
-- group take 13 ms.
local held = {}

local function hold_lanes()
    if tonumber(call('HGET', T .. ':g:' .. group.gid, 'running') or 0) == 0 then
        return
    end
    for _, token in ipairs(call('ZRANGE', T .. ':claims', 0, -1)) do
        local packed = call('LINDEX', T .. ':c:' .. token, 0)
        local key_of, _, _, _, parts = unpack(packed and cmsgpack.unpack(packed) or {})
        for _, part in ipairs(key_of == key and parts or {}) do
            local lane = lane_of(group, part[1])
            lane.held = lane.held + 1
            changed(lane)
            held[#held + 1] = lane
        end
    end
end

local function union(first, second)
    local known, all = {}, {}
    for _, names in ipairs({first, second}) do
        for _, name in ipairs(names) do
            if not known[name] then
                known[name] = true
                all[#all + 1] = name
            end
        end
    end
    return all
end

local keep = group.declared and not replace
if not group.declared and concurrency > 0 then
    hold_lanes()
end
local wanted = union(members, there > 0 and group.members or {})
local changes = #wanted ~= #group.members or #union(wanted, group.members) ~= #wanted
group.members = wanted
if not keep then
    changes = changes or group.size ~= size or group.within ~= within or group.bytes ~= bytes
        or group.concurrency ~= concurrency or group.max_deliveries ~= max_deliveries
        or group.minimum ~= minimum or group.lead ~= lead
    group.size, group.within, group.bytes = size, within, bytes
    group.concurrency, group.max_deliveries = concurrency, max_deliveries
    group.minimum, group.lead = minimum, lead
    changes = limits.set(group, {[limits.RATE] = rate or false,
        [limits.SHARD_RATE] = shard_rate or false, [limits.PARTS] = parts}) or changes
end
if changes or not group.declared then
    group.declared = true
    store_policy(group)
end
-- Nobody may claim more from these before the caller settles the other lanes anew.
for _, lane in ipairs(held) do
    settle_down(lane)
end
store()
remember(changes and 1 or 0)
return {changes and 1 or 0}
