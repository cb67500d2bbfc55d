-- retire: remove the entries of workers that have ended.
--
-- KEYS  1: the home container
-- ARGV  1 slot, 2 number, 3 clock
--       4…  workers
-- Reply 1 always
-- include workers

if not remembered() then
    for index = 4, #ARGV do
        remove_worker(ARGV[index])
    end
    remember('')
end
return 1
