-- doubled: note that a split is over.
--
-- KEYS  1: the home container
-- ARGV  1 slot, 2 number, 3 clock
--       4   queue
--       5   its epoch
-- Reply  1
-- include container

if call('HGET', T .. ':splits', ARGV[4]) == ARGV[5] then
    call('HDEL', T .. ':splits', ARGV[4])
end
return 1
