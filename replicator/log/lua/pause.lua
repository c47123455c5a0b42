-- Switch automatic failover off for the group, or on again. Promotions by hand are possible either way.
--
-- KEYS[3]  head
-- KEYS[5]  requests  stream of requests; the one appended here has the nodes look again
-- ARGV[1]  why       who switches it off, and why; empty: on again
--
-- Answers: ok; lost: there is no log; halfway WHY: it is done, but the request could not be appended.

if redis.call('EXISTS', KEYS[3]) == 0 then
  return { 'lost' }
end
local since = ARGV[1] == '' and '0' or now_ms()
redis.call('HSET', KEYS[3], 'paused', ARGV[1], 'paused_at', since)
return also('XADD', KEYS[5], 'MAXLEN', '~', 1000, '*', 'request', 'paused', 'node', '', 'by', ARGV[1]) or { 'ok' }
