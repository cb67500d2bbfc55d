-- The container of keys that a script works on, its clock, and its rising numbers.
--
-- KEYS[1] names the container; all its other keys begin with it.
-- ARGV[1] the caller's slot, ARGV[2] the number of its call, ARGV[3] a test's clock or ''.

local T, call = KEYS[1], redis.call
local now

if ARGV[3] ~= '' then
    now = tonumber(ARGV[3])
else
    local time = call('TIME')
    now = time[1] * 1000000 + time[2]
end

-- Concatenating a number of more than 14 digits would round it.
local function text(number)
    return string.format('%.0f', number)
end

-- Calls that change something answer a repeated call as they did the first time.

local REMEMBERED = 900
local CALL = T .. ':call:' .. ARGV[1]

local function remembered()
    local saved = call('GET', CALL)
    local mark = ARGV[2] .. ' '
    if saved and saved:sub(1, #mark) == mark then
        return saved:sub(#mark + 1)
    elseif saved and tonumber(saved:match('^%d+')) > tonumber(ARGV[2]) then
        -- It was sent again, answered there, and followed by others: nobody waits for this one.
        error('overtaken by a later call')
    end
end

local function remember(answer)
    call('SET', CALL, ARGV[2] .. ' ' .. answer, 'EX', REMEMBERED)
end

local function refuse(code, reason)
    return redis.error_reply('TASKYARD ' .. code .. ' ' .. (reason or ''))
end

-- Wakes who listens there; returns how many do. Where the user may not publish, nobody is woken,
-- and looks by himself: an error would leave half of a call behind.
local function publish(name)
    local heard = redis.pcall('PUBLISH', name, '')
    return type(heard) == 'number' and heard or 1
end

-- Sequences are microseconds as long as there are not more messages than those.

local META = T .. ':meta'
local last_sequence, last_turn, last_note

local function load_numbers()
    if not last_sequence then
        local found = call('HMGET', META, 'sequence', 'turn', 'note')
        last_sequence, last_turn = tonumber(found[1] or 0), tonumber(found[2] or 0)
        last_note = tonumber(found[3] or 0) -- see notes.lua
    end
end

-- Reserves sequence numbers; returns the first.
local function sequences(count)
    load_numbers()
    local first = math.max(last_sequence + 1, now)
    last_sequence = first + count - 1
    return first
end

local function next_turn()
    load_numbers()
    last_turn = last_turn + 1
    return last_turn
end

local function store_numbers()
    if last_sequence then
        call('HSET', META, 'sequence', text(last_sequence), 'turn', text(last_turn))
    end
end

-- `unpack` fails beyond some 7,000 values.
local SPREAD = 4000

-- Calls command(key, values…) in pieces; `step` values belong together.
local function spread(command, key, values, step)
    local size = SPREAD - SPREAD % (step or 1)
    for first = 1, #values, size do
        call(command, key, unpack(values, first, math.min(first + size - 1, #values)))
    end
end
