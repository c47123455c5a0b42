-- Write a node's heartbeat, stamped with the clock of Redis: the clocks of nodes do not decide which node is alive.
--
-- The heartbeat of the primary says that the log is whole in this run: it has all that was acknowledged. The nodes that
-- were heard of at about that time are those that may have what a later run lacks (protocol/missing_nodes.py).
--
-- It is called with the keys that it writes and no others, numbered for itself: a user who may not write the log can
-- report all the same.
--
-- KEYS[1]  nodes  hash: node -> "UNIX_MS JSON"
-- KEYS[2]  head   only of the primary
-- ARGV[1]  node
-- ARGV[2]  json   what the node says of itself
-- ARGV[3]  says   leads: it is the primary; left: it stops, and lacks nothing that this Redis lost; or empty
-- ARGV[4]  run    the run in which it says so
-- ARGV[5]  term   of the node
-- ARGV[6]  boot   of the node
--
-- Answers
--   ok
--   newrun   it leaves, but Redis is in another run, which may lack what it has: nothing was written
--   halfway WHY   the heartbeat is written, but not what the head was to say

if ARGV[3] == 'left' and server_run() ~= ARGV[4] then
  return { 'newrun' }
end
local leads = false
if ARGV[3] == 'leads' then
  local held = redis.call('HMGET', KEYS[2], 'run', 'term', 'boot')
  leads = held[1] == ARGV[4] and held[2] == ARGV[5] and held[3] == ARGV[6] and server_run() == ARGV[4]
end
local at = now_ms()
redis.call('HSET', KEYS[1], ARGV[1], at .. ' ' .. ARGV[2])
return leads and also('HSET', KEYS[2], 'whole', ARGV[4], 'whole_at', at) or { 'ok' }
