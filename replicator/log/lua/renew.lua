-- Extend the lease of the holder. The fence is that of an append, except that the run of Redis is read here and now.
--
-- KEYS     term log head
-- KEYS[4]  lease     string with PX, see fence.lua
-- ARGV[1]  term      the holder's term
-- ARGV[2]  boot      the holder's boot
-- ARGV[3]  node      its name
-- ARGV[4]  lease_ms
--
-- Answers: ok, or one of fence() in fence.lua.

local refused = fence(read_head(), server_run(), ARGV[1], ARGV[2])
if refused then
  return refused
end
redis.call('GET', KEYS[4]) -- an error if the key is no string: SET would replace whatever else it holds
redis.call('SET', KEYS[4], lease_text(ARGV[1], ARGV[3], ARGV[2], ARGV[4]), 'PX', ARGV[4])
return { 'ok' }
