-- Remove the heartbeat of a node that will not come back, and tell the others, so that none waits for it any more.
--
-- KEYS[5]  requests  stream of requests
-- KEYS[6]  nodes     hash: node -> heartbeat
-- ARGV[1]  node
-- ARGV[2]  by        who asks for it
--
-- Answers: ok; halfway WHY: it is gone, but the others could not be told.

redis.call('HDEL', KEYS[6], ARGV[1])
local request = { 'request', 'forget', 'node', ARGV[1], 'by', ARGV[2] }
return also('XADD', KEYS[5], 'MAXLEN', '~', 1000, '*', unpack(request)) or { 'ok' }
