-- extend: renew leases.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   microseconds from now
--       5…  tokens
-- Reply tokens whose lease was lost
-- include claims

local lease, lost = tonumber(ARGV[4]), {}
for index = 5, #ARGV do
    local token = tonumber(ARGV[index])
    local packed = call('LINDEX', claim_key(token), 0)
    if packed then
        local header = cmsgpack.unpack(packed)
        if header[3] ~= lease then
            header[3] = lease
            call('LSET', claim_key(token), 0, cmsgpack.pack(header))
        end
        call('ZADD', CLAIMS, now + lease, ARGV[index])
    else
        lost[#lost + 1] = token
    end
end
return lost
