-- mail: look into the mailbox of a worker, and change nothing.
--
-- KEYS  1: the home container
-- ARGV  1 slot, 2 number, 3 clock
--       4   worker
--       5   only control messages with a higher number
-- Reply control messages {number, command, queue}…, in the order in which it was told
-- include workers

return mail_of(ARGV[4], tonumber(ARGV[5]))
