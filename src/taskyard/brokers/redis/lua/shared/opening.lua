-- Opening the record of a message; records.lua says what it is made of.
-- include container

local function record_key(id)
    return T .. ':k:' .. id
end

-- Makes the record of a message that is put, in place of one that has expired. As texts, numbers
-- cost less in calls.
local function write_record(id, gid, shard, priority, ttl, state, due, sequence)
    local key = record_key(id)
    while call('HSET', key, 'gid', gid, 'ttl', ttl, 'state', state, 'due', due, 'expires', '0',
        'shard', shard, 'priority', priority, 'sequence', sequence) < 8
    do -- there was one that has expired
        call('DEL', key)
    end
end
