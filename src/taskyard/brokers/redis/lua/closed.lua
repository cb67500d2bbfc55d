-- closed: list lanes that wait until nothing of them is left where they were, page by page.
--
-- KEYS  1: the container
-- ARGV  1 slot, 2 number, 3 clock
--       4   queue
--       5   cursor, '' to begin
--       6   how much to look at
-- Reply {next cursor, '' at the end; key of their group; shards…}
-- include moving

local plan = {}
for _, group in ipairs(groups_of(ARGV[4])) do
    if call('EXISTS', T .. ':w:' .. group.gid) == 1 then
        plan[#plan + 1] = {group.gid, 'SSCAN', T .. ':w:' .. group.gid, group}
    end
end
local cursor, item, found = page_of(plan, ARGV[5], ARGV[6])
return {cursor, item and item[4].key or '', unpack(found)}
