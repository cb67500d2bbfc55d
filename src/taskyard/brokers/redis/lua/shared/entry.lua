-- Entries, from end to end; shared/fresh.lua says what they are.
-- include fresh

local function entry_sequence(entry)
    return (struct.unpack('>I8', entry))
end

-- How many bytes stand before the body.
local function entry_head_size(entry)
    local flags = entry:byte(BARE)
    local head = flags % 2 == HISTORY and LONG or BARE
    if flags % EXPIRING >= MARKED then
        head = head + 2 + struct.unpack('>I2', entry, head + 1)
    end
    return head + (flags >= EXPIRING and 8 or 0)
end

local function entry_body_size(entry)
    return #entry - entry_head_size(entry)
end

-- The mark of a message, nil if it has none.
local function entry_mark(entry)
    local flags = entry:byte(BARE)
    if flags % EXPIRING >= MARKED then
        return (struct.unpack('>I2c0', entry, (flags % 2 == HISTORY and LONG or BARE) + 1))
    end
end

local function read_entry(entry)
    local sequence, flags = struct.unpack('>I8B', entry)
    local message = {sequence = sequence, recorded = flags % MARKED >= RECORDED}
    local head = BARE
    if flags % 2 == HISTORY then
        message.since, message.deliveries, message.attempts, message.losses, message.cap =
            struct.unpack('>I8I4I4I4I4', entry, BARE + 1)
        head = LONG
    else
        message.since, message.deliveries, message.attempts = sequence, 0, 0
        message.losses, message.cap = 0, 0
    end
    if flags % EXPIRING >= MARKED then
        message.mark = entry_mark(entry)
        head = head + 2 + #message.mark
    end
    if flags >= EXPIRING then
        message.expires, head = struct.unpack('>I8', entry, head + 1)
        head = head - 1
    end
    message.body = entry:sub(head + 1)
    return message
end

local function write_entry(message)
    if message.deliveries == 0 and message.since == message.sequence and message.losses == 0 then
        return fresh_entry(message.sequence, message.recorded, message.body, message.mark, '',
            message.expires)
    end
    local flags, extras = entry_extras(message.mark, message.expires)
    flags = flags + HISTORY + (message.recorded and RECORDED or 0)
    return struct.pack('>I8BI8I4I4I4I4', message.sequence, flags, message.since,
        message.deliveries, message.attempts, message.losses, message.cap) .. extras
        .. message.body
end

-- The text that begins at `at`, '' when there is none, or not the whole of it.
local function text_at(body, at)
    local kind, first, length = body:byte(at) or 0, at, nil
    if kind >= 0xa0 and kind <= 0xbf then
        first, length = at + 1, kind - 0xa0
    elseif kind == 0xd9 and #body >= at + 1 then
        first, length = at + 2, body:byte(at + 1)
    elseif kind == 0xda and #body >= at + 2 then
        first, length = at + 3, (struct.unpack('>I2', body, at + 1))
    end
    if length and #body >= first + length - 1 then
        return body:sub(first, first + length - 1)
    end
    return ''
end

-- The id at the beginning of a body, '' when it is no envelope. The body may be the rest of a text,
-- from `at` on.
local function body_id(body, at)
    at = at or 1
    local array, kind = body:byte(at, at + 1)
    if not kind or array < 0x92 or array > 0x94 then
        return ''
    elseif kind >= 0xa0 and kind <= 0xbf and #body >= at + 1 + kind - 0xa0 then
        return body:sub(at + 2, at + 1 + kind - 0xa0) -- of those that taskyard makes
    end
    return text_at(body, at + 1)
end

-- The letter of the mode of a message with a mark, as a number.
local function entry_mode(entry)
    return entry:byte((entry:byte(BARE) % 2 == HISTORY and LONG or BARE) + 3)
end

-- The id of an entry.
local function entry_id(entry)
    return body_id(entry, entry_head_size(entry) + 1)
end
