-- Dead letters.
--
-- T:d:<gid>   zset  number -> number
-- T:buried    zset  gid:number -> when it was buried: by number they are not in that order, as some
--                   come from other containers
-- T:letters   hash  number -> packed: gid, task, shard, priority, id, failure, losses,
--                   deliveries, attempts, since, at, body, mark (nil: none)
-- include sleepers

local LETTERS, BURIED = T .. ':letters', T .. ':buried'

local function dead_key(gid)
    return T .. ':d:' .. gid
end

local function store_letter(number, letter)
    local gid, at = letter[1], letter[11]
    call('HSET', LETTERS, number, cmsgpack.pack(letter))
    call('ZADD', dead_key(gid), number, number)
    call('ZADD', BURIED, at, gid .. ':' .. number)
end

local function drop_letter(gid, number)
    call('ZREM', dead_key(gid), number)
    call('ZREM', BURIED, gid .. ':' .. number)
    if group_of(gid).phase == LEAVING then
        call('ZREM', T .. ':x:' .. gid, number)
    end
    call('HDEL', LETTERS, number)
end

-- Notes what became of a dead letter, and why it is one: of `failure` and `losses` one says so.
local function finish_letter(id, state, failure, losses)
    if losses > 0 then
        finish_record(id, state, 'losses', losses)
    else
        finish_record(id, state, 'failure', failure)
    end
end

-- Makes a dead letter of a message that left its lane. Of `failure` (packed by the caller) and
-- `losses` one says why.
local function bury(group, shard, priority, message, failure, losses, id, task, limit)
    local number = text(call('HINCRBY', META, 'dead', 1))
    task = task ~= '' and task or group.key:match('%z(.*)')
    store_letter(number, {group.gid, task, shard, priority, id, failure, losses,
        message.deliveries, message.attempts, message.since, now, message.body, message.mark})
    unique.release_of(group, shard, message)
    if leaves(group, shard) then
        call('ZADD', T .. ':x:' .. group.gid, number, number)
    end
    count(group, 'dead', 1)
    if call('ZCARD', dead_key(group.gid)) > limit then
        drop_letter(group.gid, call('ZRANGE', dead_key(group.gid), 0, 0)[1])
        count(group, 'dead_dropped', 1)
    end
    finish_letter(id, 'dead', failure, losses)
end
