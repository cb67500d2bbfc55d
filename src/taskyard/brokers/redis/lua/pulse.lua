-- pulse: ask which running messages are cancelled, and note how far others are.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   packed: {tokens, {{token, id, index in ARGV of what its handler told}…}}
--       5…  what handlers told
-- Reply for each message that was cancelled since it was claimed: {token, sequence}
-- include claims

local tokens, told = unpack(cmsgpack.unpack(ARGV[4]))

for _, item in ipairs(told) do
    if call('EXISTS', claim_key(item[1])) == 1 then
        note_progress(item[2], ARGV[item[3]])
    end
end

local reply = {}
for _, token in ipairs(tokens) do
    local packed = call('LINDEX', claim_key(token), 0)
    for _, sequence in ipairs(packed and cmsgpack.unpack(packed)[8] or {}) do
        reply[#reply + 1] = {token, sequence}
    end
end
return reply
