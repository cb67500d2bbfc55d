-- changed: end a change that began; nothing happens to one that ended, or to later ones.
--
-- KEYS  1: the home container
-- ARGV  1 slot, 2 number, 3 clock
--       4   name of the schedule
--       5   number of the change
--       6   'stored': its messages are, the change is made; 'refused': they never will be, the
--           schedule stays; 'forgotten': the marks of one that was removed are gone
--       7   the container that stored or refused them, or ''
-- Reply 1: it is made, now or before; 0: it is not; or others were made since, and nobody knows
-- include schedules

local name, what, container = ARGV[4], ARGV[6], tonumber(ARGV[7])

local function with_mark(marked)
    for _, other in ipairs(marked) do
        if other == container then
            return marked
        end
    end
    marked[#marked + 1] = container
    return marked
end

local saved = remembered()
if saved then
    return tonumber(saved)
end

local number, change, old = tonumber(ARGV[5]), change_of(name), schedule_of(name)
local made = what == 'stored'
if not change or change.number ~= number then
    made = old and old.made == number
elseif not is_under_way(change) then
    made = true
    if what == 'forgotten' then
        drop_change(name)
    end
elseif made then
    make_change(name, old, change.new, with_mark(change.marked), number)
    announce()
elseif old then
    -- Nobody is woken: who began is awake, and nothing is other than it was.
    old.marked = with_mark(change.marked)
    store_schedule(name, old)
else
    drop_schedule(name, with_mark(change.marked))
end
remember(made and 1 or 0)
return made and 1 or 0
