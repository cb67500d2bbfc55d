-- Keys of another application under our prefix: found before anything is written.
-- include container

local KINDS = {meta = 'hash', groups = 'hash', names = 'hash', places = 'hash', letters = 'hash',
    sleepers = 'hash', later = 'zset', due = 'zset', claims = 'zset', buried = 'zset',
    gates = 'hash', rates = 'hash', tats = 'hash', fading = 'zset', u = 'hash', windows = 'zset',
    notes = 'zset', bounds = 'hash'}

local function is_foreign(key, kind)
    local found = call('TYPE', key).ok
    return found ~= 'none' and found ~= kind
end

-- The first key that is not of the type that it has here, nil if all are right.
local function foreign_key()
    for name, kind in pairs(KINDS) do
        local key = T .. ':' .. name
        if is_foreign(key, kind) then
            return key
        end
    end
end
