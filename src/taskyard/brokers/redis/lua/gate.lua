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
-- include paging

local saved = remembered()
if saved then
    return cmsgpack.unpack(saved)
end

local queue, gate, after = ARGV[4], ARGV[5], tonumber(ARGV[6])
local before = gate_of(queue)
if after == 0 then
    store_gate(queue, gate)
end

local here, upto = page_of_queue(queue, after)
for _, group in ipairs(here) do
    if group.gate ~= gate then
        group.gate = gate
        store_policy(group)
    end
end
pass_on(here) -- what a paused queue keeps is nobody's yet
store()
local reply = {upto, before}
remember(cmsgpack.pack(reply))
return reply
