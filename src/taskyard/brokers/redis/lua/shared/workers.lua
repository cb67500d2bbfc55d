-- Workers: who works, and what they are told. All of them are at home.
--
-- T:workers  hash  worker -> packed: when it was seen, its listener, what it reports
-- T:seen     zset  worker -> when it was seen
-- T:mail     hash  worker -> packed: control messages {number, command, queue}…, in their order
-- include container

local WORKERS, SEEN, MAIL = T .. ':workers', T .. ':seen', T .. ':mail'

local function worker_of(name, since)
    local packed = call('HGET', WORKERS, name)
    if packed then
        local worker = {}
        worker.seen, worker.listener, worker.report = unpack(cmsgpack.unpack(packed))
        return worker.seen >= since and worker or nil
    end
end

local function remove_worker(name)
    call('HDEL', WORKERS, name)
    call('ZREM', SEEN, name)
    call('HDEL', MAIL, name)
end

-- What a worker was told behind a number.
local function mail_of(name, heard)
    local packed, found = call('HGET', MAIL, name), {}
    for _, message in ipairs(packed and cmsgpack.unpack(packed) or {}) do
        if message[1] > heard then
            found[#found + 1] = message
        end
    end
    return found
end

local function store_mail(name, mail)
    if #mail > 0 then
        call('HSET', MAIL, name, cmsgpack.pack(mail))
    else
        call('HDEL', MAIL, name)
    end
end
