-- plan: note the shards of a lot's values, unless somebody has done so.
--
-- Whoever moves a lot may be killed, and the next one may not make the same shards of the same
-- values: a shard function may be random, or newer. The values would go to other containers,
-- some of which have had this lot.
--
-- KEYS  1: the container of an inbox (see collect.lua)
-- ARGV  1 slot, 2 number, 3 clock
--       4   the number of the lot
--       5   the shards, packed
-- Reply the shards that hold, packed; nil: that lot is not under way any more

local LOT = KEYS[1] .. ':lot'

if redis.call('HGET', LOT, 'number') ~= ARGV[4] then
    return false
end
redis.call('HSETNX', LOT, 'plan', ARGV[5])
return redis.call('HGET', LOT, 'plan')
