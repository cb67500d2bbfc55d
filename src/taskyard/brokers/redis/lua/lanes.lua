-- lanes: list the lanes of a group that have messages, claims or are parked, page by page.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   group key
--       5   'r': those that are ready, 's': those with a state of their own; some are in both
--       6   cursor, '0' to begin
-- Reply {next cursor, '0' at the end; shards…}
-- include groups

local group = known_group(ARGV[4])
if not group then
    return {'0'}
end
local command = ARGV[5] == 'r' and 'ZSCAN' or 'HSCAN'
local key = ARGV[5] == 'r' and group.ready_key or group.state_key
local found = call(command, key, ARGV[6], 'COUNT', 500)
local reply = {found[1]}
for index = 1, #found[2], 2 do
    reply[#reply + 1] = found[2][index]
end
return reply
