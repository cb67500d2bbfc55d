-- redrive: take dead letters away, and put them back at the tail of their lanes, or drop them. One
-- that would need a unique key that another message holds stays; so it does while its shard moves
-- away, where its key is.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   'retry' or 'discard'
--       5…  numbers; those that are gone are passed over
-- Reply {how many it took away, how many of the numbers it looked at before it had moved enough}
-- include letters

local BYTES = 4194304

local saved = remembered()
if saved then
    return cmsgpack.unpack(saved)
end

local function retry(group, shard, priority, id, body, mark)
    local sequence, recorded = sequences(1), id ~= '' and has_record(id)
    if leaves(group, shard) then
        delay(group, shard, priority, now, {sequence = sequence, since = sequence, deliveries = 0,
            attempts = 0, losses = 0, cap = 0, recorded = recorded, mark = mark, body = body})
        sequence = 0
    else
        local lane = lane_of(group, shard)
        append(lane, priority, {fresh_entry(sequence, recorded, body, mark, '')}, sequence, #body)
        settle_down(lane)
    end
    if recorded then
        local key = record_key(id)
        call('HDEL', key, 'failure', 'losses', 'result', 'progress', 'told')
        call('HSET', key, 'state', 'waiting', 'due', 0, 'expires', 0, 'sequence', sequence)
        call('PERSIST', key)
    end
end

-- Whether a letter can be put back; then it has its key again.
local function may_retry(group, letter)
    local shard, body, mark = letter[3], letter[12], letter[13]
    return not mark
        or not leaves(group, shard) and unique.take_again(group, shard, mark, body_id(body))
end

local number, bytes, looked = 0, 0, 0
for index = 5, #ARGV do
    if bytes > BYTES then
        break
    end
    looked = looked + 1
    local packed = call('HGET', LETTERS, ARGV[index])
    if packed then
        local letter = cmsgpack.unpack(packed)
        local gid, _, shard, priority, id = unpack(letter)
        local group = group_of(gid)
        bytes = bytes + #letter[12]
        local taken = ARGV[4] == 'discard' or may_retry(group, letter)
        if taken then
            drop_letter(gid, ARGV[index])
            number = number + 1
        end
        if taken and ARGV[4] == 'retry' then
            retry(group, shard, priority, id, letter[12], letter[13])
        elseif taken then
            count(group, 'discarded', 1)
            finish_letter(id, 'discarded', letter[6], letter[7])
        end
    end
end
store()
remember(cmsgpack.pack({number, looked}))
return {number, looked}
