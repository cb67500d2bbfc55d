-- Records: what is remembered of a message under its id.
--
-- T:k:<id>  hash  gid, ttl (microseconds after the end), state, due, expires (0: not ended),
--                 result, failure or losses,
--                 waiters (names of listeners, each followed by a space);
--                 where the message is: shard, priority, sequence (negative: outside its lane;
--                 0: on its way to another container); what its handler told last, and when:
--                 progress, told
-- include lanes
-- include opening

-- Whether there is a record that did not expire.
local function has_record(id)
    local expires = call('HGET', record_key(id), 'expires')
    return expires and not (tonumber(expires) > 0 and tonumber(expires) <= now)
end

-- Notes where the message of a record is now.
local function locate_record(id, sequence)
    if call('EXISTS', record_key(id)) == 1 then
        call('HSET', record_key(id), 'sequence', sequence)
    end
end

local function postpone_record(id, due, stays, sequence)
    if call('EXISTS', record_key(id)) == 1 then
        call('HSET', record_key(id), 'state', 'retrying', 'due', due)
        if not stays then
            call('HSET', record_key(id), 'sequence', -sequence)
        end
    end
end

local function note_progress(id, told)
    if call('EXISTS', record_key(id)) == 1 then
        call('HSET', record_key(id), 'progress', told, 'told', now)
    end
end

-- Notes that a message ended, and wakes who waits for it. `field`: of its `value`, if any.
local function finish_record(id, state, field, value)
    local key = record_key(id)
    local found = id ~= '' and call('HMGET', key, 'ttl', 'waiters')
    if not found or not found[1] then
        return
    end
    local ttl = tonumber(found[1])
    call('HDEL', key, 'result', 'failure', 'losses', 'waiters')
    call('HSET', key, 'state', state, 'expires', math.max(1, now + ttl))
    if field then
        call('HSET', key, field, value)
    end
    -- Where a test moves the clock, `expires` alone decides.
    if ARGV[3] == '' then
        call('PEXPIRE', key, math.ceil(ttl / 1000))
    else
        call('EXPIRE', key, 3600)
    end
    for name in (found[2] or ''):gmatch('%S+') do
        publish(name)
    end
end
