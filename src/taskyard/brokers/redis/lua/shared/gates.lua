-- Gates: what queues let through. A group that is there has the one of its queue with it.
--
-- T:gates  hash  queue that is not open -> 'paused': nothing is handed out; or 'draining': nothing
--                is put, and batches do not wait to fill
-- include container

local OPEN, PAUSED, DRAINING = 'open', 'paused', 'draining'

local function gate_of(queue)
    return call('HGET', T .. ':gates', queue) or OPEN
end

-- Says what a queue lets through to groups that are made later.
local function store_gate(queue, gate)
    if gate == OPEN then
        call('HDEL', T .. ':gates', queue)
    else
        call('HSET', T .. ':gates', queue, gate)
    end
end
