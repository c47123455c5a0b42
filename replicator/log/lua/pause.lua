-- Switch automatic failover off for the group, or on again. Promotions by hand are possible either way.
--
-- KEYS[3]  head
-- KEYS[5]  requests  stream of requests; the one appended here has the nodes look again
-- KEYS[8]  history   see history.lua
-- ARGV[1]  why       who switches it off, and why; empty: on again
-- ARGV[2]  by        who asks for it, for the history
-- ARGV[3]  reason    why, for the history
--
-- Answers: ok; lost: there is no log; halfway WHY: it is done, but the request could not be appended.

-- include history.lua

if redis.call('EXISTS', KEYS[3]) == 0 then
  return { 'lost' }
end
local since = ARGV[1] == '' and '0' or now_ms()
redis.call('HSET', KEYS[3], 'paused', ARGV[1], 'paused_at', since)
local request = { 'request', 'paused', 'node', '', 'by', ARGV[1] }
local failed = also('XADD', KEYS[5], 'MAXLEN', '~', 1000, '*', unpack(request))
local notes = read_notes()
tell(notes, since == '0' and 'resume' or 'pause', notes.term or '0', { 'by', ARGV[2], 'reason', ARGV[3] })
return failed or { 'ok' }
