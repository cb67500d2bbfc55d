-- import: store what left another container, once.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   queue
--       5   dead letters that a group keeps
--       6   what is on its way, as export.lua gives it
-- Reply  1
-- include letters

local queue, limit = ARGV[4], tonumber(ARGV[5])
local number, things = unpack(cmsgpack.unpack(ARGV[6]))

if tonumber(call('HGET', T .. ':imported', queue) or 0) >= number then
    return 1
end

local touched, is_touched = {}, {}

local function touched_lane(group, shard)
    local lane = lane_of(group, shard)
    if not is_touched[lane] then
        is_touched[lane] = true
        touched[#touched + 1] = lane
    end
    return lane
end

local function bring_record(fields, id, group, sequence, due)
    if not fields or has_record(id) then
        return
    end
    local key = record_key(id)
    call('DEL', key)
    call('HSET', key, unpack(fields))
    call('HSET', key, 'gid', group.gid, 'sequence', sequence)
    if due then
        call('HSET', key, 'due', due)
    end
    local expires = tonumber(call('HGET', key, 'expires'))
    if expires > 0 then
        call('PEXPIRE', key, ARGV[3] == '' and math.max(1, math.ceil((expires - now) / 1000))
            or 3600000)
    end
end

local bring = {}

-- The head of a lane comes after its tail, so usually it is older than all that is here.
function bring.m(group, shard, priority, entry, record)
    local lane, message = touched_lane(group, shard), read_entry(entry)
    local first = call('LINDEX', list_key(lane, priority), 0)
    if message.losses == 0 and (not first or entry:sub(1, 8) < first:sub(1, 8)) then
        count_in(lane, priority, message.sequence, 1, #message.body, message.expires)
        call('LPUSH', list_key(lane, priority), entry)
    else
        put_back(lane, priority, message)
    end
    bring_record(record, body_id(message.body), group, message.sequence)
end

-- One that is debounced comes after those that replace it, which were put here since.
local function is_replaced(group, shard, message)
    return message.mark and message.mark:sub(1, 1) == unique.DEBOUNCED
        and unique.holder(call('HGET', unique.KEYS,
            unique.field(group, shard, message.mark:sub(2))))
end

function bring.d(group, shard, priority, entry, record, due, first)
    local message = read_entry(entry)
    local id = body_id(message.body)
    bring_record(record, id, group, -message.sequence, due)
    if is_replaced(group, shard, message) then
        count(group, 'discarded', 1)
        finish_record(id, 'discarded')
        return
    end
    local member = delay(group, shard, priority, due, message)
    if first then
        call('HSET', unique.KEYS, unique.field(group, shard, message.mark:sub(2)),
            unique.debounced(first, id, member))
    end
end

function bring.u(group, shard, mark, id)
    unique.release(group, shard, mark, id)
end

function bring.s(group, shard, parked, blocked, tat)
    local lane = touched_lane(group, shard)
    set_parked(lane, lane.parked or parked)
    lane.blocked = math.max(lane.blocked, blocked)
    lane.tat = math.max(lane.tat, tat or 0)
    changed(lane)
end

function bring.x(group, letter, record)
    local dead = text(call('HINCRBY', META, 'dead', 1))
    letter[1] = group.gid
    store_letter(dead, letter)
    if call('ZCARD', dead_key(group.gid)) > limit then
        drop_letter(group.gid, call('ZRANGE', dead_key(group.gid), 0, 0)[1])
        count(group, 'dead_dropped', 1)
    end
    bring_record(record, letter[5], group, 0)
end

for _, thing in ipairs(things) do
    bring[thing[1]](made_group(thing[2]), unpack(thing, 3))
end
for _, lane in ipairs(touched) do
    settle_down(lane)
end
call('HSET', T .. ':imported', queue, text(number))
store()
return 1
