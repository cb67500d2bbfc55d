-- The groups of a queue, page by page.
-- include groups

-- How many groups one call looks at, and how many of the queue.
local GROUPS, OF_QUEUE = 1000, 100

-- Returns some groups, and the gid after which to go on, 0 at the end.
local function page_of_queue(queue, after)
    -- Gids are given out one after the other and never again: no group is in two pages.
    local last = tonumber(call('HGET', META, 'groups') or 0)
    local upto = math.min(last, after + GROUPS)
    local gids, here = {}, {}
    for gid = after + 1, upto do
        gids[#gids + 1] = gid
    end
    local keys = gids[1] and call('HMGET', T .. ':names', unpack(gids)) or {}
    for index, key in ipairs(keys) do
        if key and queue_of(key) == queue then -- there is none where whoever made it failed halfway
            here[#here + 1] = known_group(key)
            if #here == OF_QUEUE then
                upto = gids[index]
                break
            end
        end
    end
    return here, upto < last and upto or 0
end
