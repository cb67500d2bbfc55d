-- lanes: list the lanes of a group that have messages, claims or are parked, page by page.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   group key
--       5   'r': those that are ready, 's': those with a state of their own, 'w': those that are
--           closed; some are in several
--       6   cursor, '0' to begin
-- Reply {next cursor, '0' at the end; shards…}
-- include groups

local group = known_group(ARGV[4])
if not group then
    return {'0'}
end
local command = ({r = 'ZSCAN', s = 'HSCAN', w = 'SSCAN'})[ARGV[5]]
local found = call(command, T .. ':' .. ARGV[5] .. ':' .. group.gid, ARGV[6], 'COUNT', 500)
local reply = {found[1]}
for index = 1, #found[2], command == 'SSCAN' and 1 or 2 do
    reply[#reply + 1] = found[2][index]
end
return reply
