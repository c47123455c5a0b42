-- Give the lease back, at a clean stop: whoever waits for it to run out need not wait. Only the holder's own lease.
--
-- KEYS[4]  lease  string
-- ARGV[1]  term
-- ARGV[2]  boot
-- ARGV[3]  node
--
-- Answers: ok, whether there was one or not.

if redis.call('GET', KEYS[4]) == ARGV[1] .. ' ' .. ARGV[3] .. ' ' .. ARGV[2] then
  redis.call('DEL', KEYS[4])
end
return { 'ok' }
