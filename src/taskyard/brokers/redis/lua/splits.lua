-- splits: name some queues that are being split.
--
-- KEYS  1: the home container
-- ARGV  1 slot, 2 number, 3 clock
-- Reply their names
-- include container

return call('HRANDFIELD', T .. ':splits', 10)
