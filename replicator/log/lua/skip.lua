-- Leave the last change of the log out of the group's history: what holds in the group is what was before it. The
-- record stays where it is until a snapshot cuts it; nodes pass it by, and one of them leads without it.
--
-- KEYS[3]  head
-- KEYS[5]  requests  stream of requests; the one appended here has the nodes look again
-- ARGV[1]  id        the newest record that the caller has seen: if there is another one, all may be different
-- ARGV[2]  changed   the last change before the one that is left out
-- ARGV[3]  skipped   what was left out so far, this change included (Skip in protocol/group.py)
--
-- Answers: ok; lost: there is no log; conflict TERM NODE: the log has moved;
-- halfway WHY: it is done, but the request could not be appended.

if redis.call('EXISTS', KEYS[3]) == 0 then
  return { 'lost' }
end
if redis.call('HGET', KEYS[3], 'id') ~= ARGV[1] then
  return { 'conflict', redis.call('HGET', KEYS[3], 'term') or '0', redis.call('HGET', KEYS[3], 'node') or '' }
end
redis.call('HSET', KEYS[3], 'changed', ARGV[2], 'skipped', ARGV[3])
return also('XADD', KEYS[5], 'MAXLEN', '~', 1000, '*', 'request', 'skipped', 'node', '', 'by', '') or { 'ok' }
