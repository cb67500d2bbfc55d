-- reap: take back a few lost claims: those past their deadline, else those of dead owners.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   dead letters that a group keeps
--       5…  dead owners
-- Reply how many were taken back
-- include claims

local REAPED = 4
-- How many leases it checks against a clock that was set back.
local CHECKED = 100

local saved = remembered()
if saved then
    return tonumber(saved)
end

local function header_of(token)
    local packed = call('LINDEX', claim_key(tonumber(token)), 0)
    return packed and cmsgpack.unpack(packed) or {}
end

-- A clock that was set back must not turn a lease into a long one.
local furthest = call('ZREVRANGE', CLAIMS, 0, CHECKED - 1, 'WITHSCORES')
for index = 1, #furthest, 2 do
    local lease = header_of(furthest[index])[3]
    if lease and tonumber(furthest[index + 1]) > now + lease then
        call('ZADD', CLAIMS, now + lease, furthest[index])
    end
end

local function reap_owners(limit)
    local dead, tokens, taken = {}, call('ZRANGE', CLAIMS, 0, -1), 0
    for index = 5, #ARGV do
        dead[ARGV[index]] = true
    end
    table.sort(tokens, function(one, other) return tonumber(one) < tonumber(other) end)
    for _, token in ipairs(tokens) do
        if taken < REAPED and dead[header_of(token)[2] or ''] then
            take_back(tonumber(token), limit)
            taken = taken + 1
        end
    end
    return taken
end

local limit = tonumber(ARGV[4])
local taken = reap_expired(REAPED, limit)
if taken == 0 and ARGV[5] then
    taken = reap_owners(limit)
end
store()
remember(taken)
return taken
