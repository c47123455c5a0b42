-- Switch automatic failover off for the group, or on again. Promotions by hand go on either way.
--
-- KEYS[3]  head
-- KEYS[5]  commands  stream of asks; the one appended here has the nodes look again
-- ARGV[1]  why       who did it, and why; empty: on again
--
-- Answers: ok; lost: there is no log.

if redis.call('EXISTS', KEYS[3]) == 0 then
  return { 'lost' }
end
local time = redis.call('TIME')
local since = ARGV[1] == '' and '0' or string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('HSET', KEYS[3], 'paused', ARGV[1], 'paused_at', since)
redis.call('XADD', KEYS[5], 'MAXLEN', '~', 1000, '*', 'ask', 'paused', 'node', '', 'by', ARGV[1])
return { 'ok' }
