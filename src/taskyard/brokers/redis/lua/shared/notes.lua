-- Notes of cancelled ids that have no records, and the end of what they mean; the rules are those
-- of brokers/cancelling.py.
--
-- T:notes  zset  id -> a sequence: it means the messages that were put before. `note` of T:meta is
--                the last one, so nobody looks here once that is too old
-- include records
-- include unique

local NOTES, NOTED = T .. ':notes', 7 * 86400 * 1000000

local notes = {}

function notes.are_there()
    load_numbers()
    return last_note > 0 and now < last_note + NOTED
end

-- Notes an id: of all messages that were put before.
function notes.add(id)
    last_note = sequences(1)
    call('HSET', META, 'note', text(last_note))
    call('ZADD', NOTES, text(last_note), id)
end

function notes.forget_old()
    local old = call('ZRANGEBYSCORE', NOTES, '-inf', text(now - NOTED), 'LIMIT', 0, SPREAD)
    spread('ZREM', NOTES, old)
end

-- Whether a message is cancelled by a note.
function notes.means(message)
    if not notes.are_there() or message.sequence >= last_note then
        return false
    end
    local note = tonumber(call('ZSCORE', NOTES, body_id(message.body)) or 0)
    return message.sequence < note and now < note + NOTED
end

-- Ends a message that left its place as cancelled; its unique key is free.
function notes.stop(group, shard, message)
    count(group, 'cancelled', 1)
    unique.release_of(group, shard, message)
    if message.recorded then
        finish_record(body_id(message.body), 'cancelled')
    end
end
