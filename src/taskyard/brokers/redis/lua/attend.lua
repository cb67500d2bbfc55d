-- attend: make or refresh the entry of a worker, and look into its mailbox. Some that expired are
-- removed; all of them go when nobody has attended for twice as long.
--
-- KEYS  1: the home container
-- ARGV  1 slot, 2 number, 3 clock
--       4   worker
--       5   the listener to wake when it is told something, or ''
--       6   number of the last control message that it carried out, 0: of none; up to there they
--           are removed
--       7   microseconds for which an entry is kept
--       8   what it reports
-- Reply the other control messages {number, command, queue}…, in the order in which it was told
-- include workers

local saved = remembered()
if saved then
    return cmsgpack.unpack(saved)
end

local AT_ONCE = 100

local name, kept = ARGV[4], tonumber(ARGV[7])
for _, old in ipairs(call('ZRANGEBYSCORE', SEEN, '-inf', '(' .. text(now - kept), 'LIMIT', 0,
        AT_ONCE)) do
    if old ~= name then
        remove_worker(old)
    end
end

call('HSET', WORKERS, name, cmsgpack.pack({now, ARGV[5], ARGV[8]}))
call('ZADD', SEEN, now, name)
local mail = mail_of(name, tonumber(ARGV[6]))
if ARGV[6] ~= '0' then
    store_mail(name, mail)
end
for _, key in ipairs({WORKERS, SEEN, MAIL}) do
    call('EXPIRE', key, math.ceil(kept / 500000))
end
remember(cmsgpack.pack(mail))
return mail
