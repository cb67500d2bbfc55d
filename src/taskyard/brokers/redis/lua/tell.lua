-- tell: put a control message into the mailboxes of workers, and wake them. An equal one that is
-- there still is replaced, since doing it twice would change nothing.
--
-- KEYS  1: the home container
-- ARGV  1 slot, 2 number, 3 clock
--       4   microseconds for which an entry is kept
--       5   how many control messages a mailbox holds; the oldest give way
--       6   command
--       7   queue
--       8…  workers
-- Reply the workers that were told; the others have no entry
-- include workers

local saved = remembered()
if saved then
    return cmsgpack.unpack(saved)
end

local since, most, command, queue = now - tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], ARGV[7]

local function post(name)
    local mail = {}
    for _, message in ipairs(mail_of(name, 0)) do
        if message[2] ~= command or message[3] ~= queue then
            mail[#mail + 1] = message
        end
    end
    mail[#mail + 1] = {sequences(1), command, queue}
    while #mail > most do
        table.remove(mail, 1)
    end
    store_mail(name, mail)
end

local told = {}
for index = 8, #ARGV do
    local worker = worker_of(ARGV[index], since)
    if worker then
        post(ARGV[index])
        told[#told + 1] = ARGV[index]
        if worker.listener ~= '' then
            publish(worker.listener)
        end
    end
end
if #told > 0 then
    store_numbers()
    call('EXPIRE', MAIL, math.ceil(tonumber(ARGV[4]) / 500000))
end
remember(cmsgpack.pack(told))
return told
