-- Taking single messages out of where they wait, by their sequence.
-- include removal

-- Where a sequence is among sorted entries, of which `at` gives one by its index from 0.
local function index_of(sequence, first, number, at)
    local low, high = first, first + number - 1
    while low <= high do
        local middle = math.floor((low + high) / 2)
        local entry = at(middle)
        local found = entry and entry_sequence(entry) or 0
        if found == sequence then
            return middle, entry
        elseif found < sequence then
            low = middle + 1
        else
            high = middle - 1
        end
    end
end

local function remove_fresh(lane, priority, sequence)
    local key = list_key(lane, priority)
    local length = call('LLEN', key)
    local index, entry = index_of(sequence, 0, length, function(at)
        return call('LINDEX', key, at)
    end)
    if entry then
        call('LREM', key, index * 2 < length and 1 or -1, entry) -- from the nearer end
    end
    return entry
end

local function remove_back(lane, priority, sequence)
    local key = back_key(lane, priority)
    local entry = call('ZRANGEBYSCORE', key, text(sequence), text(sequence), 'LIMIT', 0, 1)[1]
    if entry then
        call('ZREM', key, entry)
    end
    return entry
end

-- Takes a message that waits out of its lane; returns it, or nil if it is not there.
local function take_waiting(group, shard, priority, sequence)
    local lane = lane_of(group, shard)
    local entry = contains(lane.back, priority) and remove_back(lane, priority, sequence)
        or remove_fresh(lane, priority, sequence)
    if not entry then
        return
    end
    removal.leave(lane, priority)
    removal.count_out(lane, 1, entry_body_size(entry))
    settle_down(lane)
    return read_entry(entry)
end
