-- leave: forget a listener, and hand on what it was woken for.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   the listener
-- Reply 1
-- include sleepers

local sleeper = forget_sleeper(ARGV[4])
if sleeper then
    local served = {}
    for index, gid in ipairs(sleeper[2]) do
        served[index] = group_of(gid)
    end
    pass_on(served)
end
announce()
return 1
