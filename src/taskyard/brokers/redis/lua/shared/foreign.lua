-- Keys of another application under our prefix: found before anything is written.
-- include container

local KINDS = {meta = 'hash', groups = 'hash', names = 'hash', places = 'hash', letters = 'hash',
    sleepers = 'hash', later = 'zset', due = 'zset', claims = 'zset', buried = 'zset'}

-- The first key that is not of the type that it has here, nil if all are right.
local function foreign_key()
    for name, kind in pairs(KINDS) do
        local found = call('TYPE', T .. ':' .. name).ok
        if found ~= 'none' and found ~= kind then
            return T .. ':' .. name
        end
    end
end
