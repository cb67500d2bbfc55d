-- gate: say what a queue lets through: first to groups that are made later, then page by page to
-- those that are there.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   queue
--       5   'open', 'paused' or 'draining'
--       6   gid after which to go on, 0 to begin
-- Reply {gid to go on after, 0 at the end; what it let through before}
-- include sleepers

-- How many groups one call looks at, and how many of the queue.
local GROUPS, OF_QUEUE = 1000, 100

local saved = remembered()
if saved then
    return cmsgpack.unpack(saved)
end

local queue, gate, after = ARGV[4], ARGV[5], tonumber(ARGV[6])
local before = gate_of(queue)
if after == 0 then
    store_gate(queue, gate)
end

-- Gids are given out one after the other and never again: no group is in two pages.
local last = tonumber(call('HGET', META, 'groups') or 0)
local upto = math.min(last, after + GROUPS)
local gids, here = {}, {}
for gid = after + 1, upto do
    gids[#gids + 1] = gid
end
local keys = gids[1] and call('HMGET', T .. ':names', unpack(gids)) or {}
for index, key in ipairs(keys) do
    if key and queue_of(key) == queue then -- there is none where whoever made it failed halfway
        here[#here + 1] = known_group(key)
        if #here == OF_QUEUE then
            upto = gids[index]
            break
        end
    end
end
for _, group in ipairs(here) do
    if group.gate ~= gate then
        group.gate = gate
        store_policy(group)
    end
end
pass_on(here) -- what a paused queue keeps is nobody's yet
store()
local reply = {upto < last and upto or 0, before}
remember(cmsgpack.pack(reply))
return reply
