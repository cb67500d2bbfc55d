-- guard: name a key of another application under our prefix.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
-- Reply that key, '' if there is none. Of the groups, the first ones are looked at
-- include foreign

local GROUPS = 1000
local KINDS_OF_GROUP = {g = 'hash', s = 'hash', r = 'zset', f = 'zset', p = 'set', i = 'zset',
    d = 'zset'}

local function foreign_key_of_group(gid)
    for name, kind in pairs(KINDS_OF_GROUP) do
        local key = T .. ':' .. name .. ':' .. gid
        if is_foreign(key, kind) then
            return key
        end
    end
end

local found = foreign_key()
if not found then
    local gids = call('HKEYS', T .. ':names')
    for index = 1, math.min(#gids, GROUPS) do
        found = found or foreign_key_of_group(gids[index])
    end
end
return found or ''
