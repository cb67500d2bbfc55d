-- cleared: forget what was on its way, since it arrived.
--
-- KEYS  1: the container that it left
-- ARGV  1 slot, 2 number, 3 clock
--       4   queue
--       5   its number
-- Reply  1
-- include letters

local slot = T .. ':slot:' .. ARGV[4]
local packed = call('GET', slot)
local number, things = unpack(packed and cmsgpack.unpack(packed) or {})
if number ~= tonumber(ARGV[5]) then
    return 1
end

-- Whoever waits for the end of a message looks again, and finds it where it is now.
local function drop_record(id)
    for name in (call('HGET', record_key(id), 'waiters') or ''):gmatch('%S+') do
        publish(name)
    end
    call('DEL', record_key(id))
end

for _, thing in ipairs(things) do
    local kind, key = thing[1], thing[2]
    if kind == 'x' then
        drop_record(thing[3][5])
    elseif kind == 'm' or kind == 'd' then
        -- It was counted here until now: better twice for a moment than not at all.
        count(known_group(key), kind == 'm' and 'waiting' or 'delayed', -1)
        if thing[6] then
            drop_record(body_id(read_entry(thing[5]).body))
        end
    end
end
call('DEL', slot)
store_counts()
return 1
