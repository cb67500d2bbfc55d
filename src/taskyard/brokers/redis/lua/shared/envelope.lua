-- What a body says beside its id. cmsgpack fails at bytes and times, which payloads may hold.
-- include entry

-- Of the kinds from 0xc0 to 0xdf: how many bytes follow, or (LENGTHS) how many tell the length.
local SIZES = '0000' .. '124124' .. '48' .. '1248' .. '1248' .. '2359h' .. '124' .. '24' .. '24'
local LENGTHS = '0000' .. '111111' .. '00' .. '0000' .. '0000' .. '00000' .. '111' .. '11' .. '11'

-- Where the value ends that begins at `at`: the byte behind it, nil when the body ends before.
local function behind(body, at)
    local left = 1
    while left > 0 do
        local kind = body:byte(at)
        if not kind then
            return
        end
        left, at = left - 1, at + 1
        if kind >= 0x80 and kind <= 0x8f then
            left = left + 2 * (kind - 0x80)
        elseif kind >= 0x90 and kind <= 0x9f then
            left = left + kind - 0x90
        elseif kind >= 0xa0 and kind <= 0xbf then
            at = at + kind - 0xa0
        elseif kind >= 0xc0 and kind <= 0xdf then
            local place = kind - 0xbf
            local size = tonumber(SIZES:sub(place, place), 36)
            if LENGTHS:byte(place) == 0x30 then
                at = at + size
            elseif #body < at + size - 1 then
                return
            else
                local length = struct.unpack('>I' .. size, body, at)
                at = at + size
                if kind >= 0xdc then
                    left = left + (kind >= 0xde and 2 or 1) * length
                else
                    at = at + length + (kind >= 0xc7 and kind <= 0xc9 and 1 or 0)
                end
            end
        end
    end
    return at
end

-- The task that a body of an order group names, '' if it names none.
local function body_task(body)
    local array = body:byte(1)
    local payload = (array == 0x93 or array == 0x94) and behind(body, 2)
    local task = payload and behind(body, payload)
    return task and text_at(body, task) or ''
end
