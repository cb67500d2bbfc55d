-- forget: forget the last lot of a source that is no more, unless there was a later one.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   the source
--       5   a number; a later lot has a higher one
-- Reply 1
-- include container

local last = call('HGET', T .. ':transfers', ARGV[4])
if last and tonumber(last:match('^%d+')) <= tonumber(ARGV[5]) then
    call('HDEL', T .. ':transfers', ARGV[4])
end
return 1
