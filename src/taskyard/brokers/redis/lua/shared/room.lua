-- Room in bounded queues: what is refused, and what is dropped, by the rules of brokers/bounds.py.
-- include letters
-- include envelope
-- include notes
-- include removal

local room = {FULL = 7, TOO_LARGE = 8, EXTRA = 100}
do
    -- Says what is wrong with the puts of a queue: there is no room, or never will be.
    local function refusal(code, queue, shard, number, limit, of)
        return {code, queue, shard or '', shard and 1 or 0, number, limit, of[bounds.LENGTH],
            of[bounds.OVERFLOW], of[bounds.TIMEOUT]}
    end

    -- How many messages would be too many, nil if they are more than there may ever be.
    function room.excess(there, brought, limit, is_lot)
        if brought > limit then
            if not is_lot then
                return nil
            end
            brought = 1
        end
        return there + brought - limit
    end

    -- How many messages more there are once an item is stored: one that takes the place of another
    -- that was put off under its key adds none.
    local function needed(item)
        return item[6] - (item.replaced or 0)
    end

    -- Whether the messages of an item enter their lane at once.
    local function enters_now(item)
        local is_put_off = item[12] and item[12][1] == unique.DEBOUNCED
        return not is_put_off and (item[5] > 0 and item[5] or now + item[4]) <= now
    end

    function room.to_drop(over, brought)
        return math.min(over, brought + room.EXTRA)
    end

    -- The part of a queue's limit that each of its partitions gets.
    function room.share(length, partitions)
        return math.max(1, math.floor(length / partitions))
    end

    local function length_of(gids)
        local length = 0
        for _, gid in ipairs(gids) do
            local found = call('HMGET', T .. ':g:' .. gid, 'waiting', 'delayed')
            length = length + (found[1] or 0) + (found[2] or 0)
        end
        return length
    end

    -- Of lanes under a kind of key of several groups the first ones together, in their order.
    local function first_lanes(gids, kind, most)
        local found = {}
        for _, gid in ipairs(gids) do
            local group = group_of(gid)
            local page = call('ZRANGE', group[kind], 0, most - 1, 'WITHSCORES')
            for index = 1, #page, 2 do
                found[#found + 1] =
                    {group = group, shard = page[index], score = tonumber(page[index + 1])}
            end
        end
        table.sort(found, function(one, other)
            if one.score ~= other.score then
                return one.score < other.score
            elseif one.group ~= other.group then
                return one.group.number < other.group.number
            end
            return one.shard < other.shard
        end)
        return found
    end

    -- What is to be dropped: `order` of lanes, and how many messages of each.
    local function new_drops()
        return {order = {}, number = {}, sum = 0}
    end

    local function add_drop(drops, lane, number)
        if not drops.number[lane] then
            drops.number[lane] = 0
            drops.order[#drops.order + 1] = lane
        end
        drops.number[lane] = drops.number[lane] + number
        drops.sum = drops.sum + number
    end

    -- Plans to drop up to `left` messages of a lane; returns how many are left to be found.
    local function take_some(drops, lane, left)
        local taken = math.min(left, waiting(lane) - (drops.number[lane] or 0))
        if taken > 0 then
            add_drop(drops, lane, taken)
        end
        return left - math.max(0, taken)
    end

    -- Finds messages that can be dropped: first in the lanes that get some, then in those whose
    -- turn is next. Returns how many are missing.
    local function find_room(drops, gids, items, left)
        local own = {}
        for _, item in ipairs(items) do
            local group = known_group(item[1])
            local lane = group and lane_of(group, item[2])
            if lane and not own[lane] then
                own[lane], own[#own + 1] = true, lane
                left = take_some(drops, lane, left)
            end
        end
        for _, kind in ipairs({'ready_key', 'filling_key'}) do
            for _, found in ipairs(left > 0 and first_lanes(gids, kind, left + #own) or {}) do
                local lane = lane_of(found.group, found.shard)
                if left > 0 and not own[lane] then
                    left = take_some(drops, lane, left)
                end
            end
        end
        return left
    end

    -- Per group the shards that get messages now, and how many.
    local function brought_now(items)
        local brought, by_key = {}, {}
        for _, item in ipairs(items) do
            if enters_now(item) then
                local of_group = by_key[item[1]]
                if not of_group then
                    of_group = {key = item[1], shards = {}, number = {}}
                    brought[#brought + 1], by_key[item[1]] = of_group, of_group
                end
                if not of_group.number[item[2]] then
                    table.insert(of_group.shards, item[2])
                end
                of_group.number[item[2]] = (of_group.number[item[2]] or 0) + item[6]
            end
        end
        return brought
    end

    -- Checks the lanes that get messages now; returns a refusal, if there is one.
    local function check_lanes(queue, of, items, is_lot, drops)
        local limit = of[bounds.SHARD]
        for _, of_group in ipairs(brought_now(items)) do
            local group = known_group(of_group.key)
            if group then
                load_lanes(group, of_group.shards)
            end
            for _, shard in ipairs(of_group.shards) do
                local number = of_group.number[shard]
                local there = group and waiting(group.lanes[shard]) or 0
                local over = room.excess(there, number, limit, is_lot)
                if not over then
                    return refusal(room.TOO_LARGE, queue, shard, number, limit, of)
                elseif over > 0 and of[bounds.OVERFLOW] ~= 'drop' then
                    return refusal(room.FULL, queue, shard, there, limit, of)
                elseif over > 0 then
                    add_drop(drops, group.lanes[shard], math.min(there, room.to_drop(over, number)))
                end
            end
        end
    end

    -- Checks how many messages the queue has; returns a refusal, if there is one.
    local function check_length(queue, of, items, is_lot, drops)
        local brought, gids = 0, bounds.stored(queue)[3]
        for _, item in ipairs(items) do
            brought = brought + needed(item)
        end
        local limit = room.share(of[bounds.LENGTH], of[bounds.PARTITIONS])
        local length = length_of(gids)
        local over = room.excess(length - drops.sum, brought, limit, is_lot)
        if not over then
            return refusal(room.TOO_LARGE, queue, nil, brought, limit, of)
        elseif over > 0 and (of[bounds.OVERFLOW] ~= 'drop'
            or find_room(drops, gids, items, room.to_drop(over, brought)) > 0)
        then
            return refusal(room.FULL, queue, nil, length, limit, of)
        end
    end

    -- Checks the puts of one queue that is bounded; returns a refusal, if there is one.
    local function check_queue(queue, of, items, is_lot, drops)
        local own = new_drops()
        local refused = of[bounds.SHARD] > 0 and check_lanes(queue, of, items, is_lot, own)
        if refused then
            return refused
        end
        refused = of[bounds.LENGTH] > 0 and check_length(queue, of, items, is_lot, own)
        if refused then
            return refused
        end
        for _, lane in ipairs(own.order) do
            add_drop(drops, lane, own.number[lane])
            drops.limit = of[bounds.LETTERS]
        end
    end

    -- Checks puts, as put.lua has them. Returns a refusal, or nil and what is to be dropped for
    -- them, nil if there is nothing.
    function room.check(items, is_lot)
        local queues, order = {}, {}
        for _, item in ipairs(items) do
            local group = known_group(item[1])
            local of = group and group.bounds
            if not group then
                of = bounds.effective(bounds.stored(queue_of(item[1])))
            end
            if of and needed(item) > 0 then
                local queue = queue_of(item[1])
                if not queues[queue] then
                    queues[queue] = {}
                    order[#order + 1] = {queue, of}
                end
                table.insert(queues[queue], item)
            end
        end
        if not order[1] then
            return
        end
        local drops = new_drops()
        for _, named in ipairs(order) do
            local refused = check_queue(named[1], named[2], queues[named[1]], is_lot, drops)
            if refused then
                return refused
            end
        end
        return nil, drops.order[1] and drops
    end

    -- Dropping

    local function oldest_at(lane)
        local oldest, oldest_priority, came_back
        for _, priority in ipairs(lane.priorities) do
            local entry, is_back = head_at(lane, priority)
            if entry and (not oldest or entry:sub(1, 8) < oldest:sub(1, 8)) then
                oldest, oldest_priority, came_back = entry, priority, is_back
            end
        end
        return oldest, oldest_priority, came_back
    end

    -- Takes the oldest message out of a lane; returns its entry and priority.
    local function take_oldest(lane)
        local entry, priority, came_back = oldest_at(lane)
        if came_back then
            call('ZREM', back_key(lane, priority), entry)
        else
            call('LPOP', list_key(lane, priority))
        end
        removal.leave(lane, priority)
        return entry, priority
    end

    -- Lets a lane lose its oldest messages; one that is cancelled by a note ends so.
    local function drop_from(lane, number, limit)
        local group, bytes, dropped = lane.group, 0, 0
        local failure = cmsgpack.pack({reason = 'dropped',
            message = 'its queue, or shard, was full, and later ones came'})
        for _ = 1, number do
            local entry, priority = take_oldest(lane)
            local message = read_entry(entry)
            bytes = bytes + #message.body
            if notes.means(message) then
                notes.stop(group, lane.shard, message)
            else
                dropped = dropped + 1
                bury(group, lane.shard, priority, message, failure, 0, body_id(message.body),
                    group.members[1] and body_task(message.body) or '', limit)
            end
        end
        removal.count_out(lane, number, bytes)
        count(group, 'dropped', dropped)
        settle_down(lane)
    end

    -- Lets lanes lose their oldest messages: they end as dead letters.
    function room.make(drops)
        for _, lane in ipairs(drops.order) do
            drop_from(lane, drops.number[lane], drops.limit)
        end
    end
end
