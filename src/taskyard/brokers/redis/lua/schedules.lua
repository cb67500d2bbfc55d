-- schedules: list schedules, sorted by name.
--
-- KEYS  1: the home container
-- ARGV  1 slot, 2 number, 3 clock
--       4   only those with a later name
--       5   how many at most; a few thousand
--       6…  only these names, instead of ARGV[4] and ARGV[5]
-- Reply per schedule {name, rule, pending, last, 1 if paused, revision}
-- include schedules

local names = {unpack(ARGV, 6)}
if #names == 0 then
    names = call('ZRANGEBYLEX', T .. ':schedulenames', ARGV[4] == '' and '-' or '(' .. ARGV[4],
        '+', 'LIMIT', 0, ARGV[5])
end
local found = {}
for _, name in ipairs(names) do
    found[#found + 1] = shown(name) or nil
end
return found
