-- How much queues hold. A group that is there has the bounds of its queue with it, so that a queue
-- without any costs nothing.
--
-- T:bounds  hash  queue of which anything was said -> packed {declared, chosen, gids of its
--                 groups}; the first two are false or {length, shard, overflow, timeout
--                 (microseconds), partitions that share the length, dead letters that a group
--                 keeps}; what was chosen wins
-- include container

local bounds = {LENGTH = 1, SHARD = 2, OVERFLOW = 3, TIMEOUT = 4, PARTITIONS = 5, LETTERS = 6}

-- What is stored of a queue, nil if nothing was said.
function bounds.stored(queue)
    local packed = call('HGET', T .. ':bounds', queue)
    return packed and cmsgpack.unpack(packed)
end

function bounds.store(queue, stored)
    call('HSET', T .. ':bounds', queue, cmsgpack.pack(stored))
end

-- What holds, of what is stored; nil if the queue is not bounded.
function bounds.effective(stored)
    local of = stored and (stored[2] or stored[1])
    return of and (of[bounds.LENGTH] > 0 or of[bounds.SHARD] > 0) and of or nil
end

-- Lets a new group be bounded as its queue is.
function bounds.join(group, queue)
    local stored = bounds.stored(queue)
    if stored then
        table.insert(stored[3], group.gid)
        bounds.store(queue, stored)
        group.bounds = bounds.effective(stored)
    end
end
