-- reap: take back a few lost claims: those past their deadline, else those of dead owners, whose
-- claims are looked for page by page.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   dead letters that a group keeps
--       5   cursor, '0' to begin
--       6…  dead owners
-- Reply {how many were taken back; cursor to go on with, '' at the end}
-- include claims

local REAPED = 4
-- How many leases it checks against a clock that was set back.
local CHECKED = 100
-- How many claims it looks at for their owners, about.
local PAGE = 100

local saved = remembered()
if saved then
    return cmsgpack.unpack(saved)
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

-- Of a page, the tokens of dead owners, oldest first; and the cursor of the next page.
local function find_owned(cursor)
    local dead, tokens = {}, {}
    for index = 6, #ARGV do
        dead[ARGV[index]] = true
    end
    local found = call('ZSCAN', CLAIMS, cursor, 'COUNT', PAGE)
    for index = 1, #found[2], 2 do
        if dead[header_of(found[2][index])[2] or ''] then
            tokens[#tokens + 1] = tonumber(found[2][index])
        end
    end
    table.sort(tokens)
    return tokens, found[1] ~= '0' and found[1] or ''
end

local limit, cursor = tonumber(ARGV[4]), ARGV[5]
local taken = reap_expired(REAPED, limit)
if taken == 0 and not ARGV[6] then
    cursor = ''
elseif taken == 0 then
    local tokens, following = find_owned(cursor)
    taken = math.min(#tokens, REAPED)
    for index = 1, taken do
        take_back(tokens[index], limit)
    end
    -- Else the same page once more: a page has as many as the server likes.
    if #tokens == taken then
        cursor = following
    end
end
store()
remember(cmsgpack.pack({taken, cursor}))
return {taken, cursor}
