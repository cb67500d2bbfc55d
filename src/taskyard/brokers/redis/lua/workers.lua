-- workers: list the entries of workers, page by page. One may be in two pages.
--
-- KEYS  1: the home container
-- ARGV  1 slot, 2 number, 3 clock
--       4   cursor, '0' to begin
--       5   microseconds for which an entry is kept
-- Reply {now, cursor to go on with ('0': that was all), {worker, when it was seen, report}…}
-- include workers

local PAGE = 100

local found = call('HSCAN', WORKERS, ARGV[4], 'COUNT', PAGE)
local reply = {now, found[1]}
for index = 1, #found[2], 2 do
    local seen, _, report = unpack(cmsgpack.unpack(found[2][index + 1]))
    if seen >= now - tonumber(ARGV[5]) then
        reply[#reply + 1] = {found[2][index], seen, report}
    end
end
return reply
