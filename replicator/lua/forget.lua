-- Take the heartbeat of a node away that will not come back, and tell the others: nobody waits for it any more.
--
-- KEYS[5]  commands  stream of asks
-- KEYS[6]  nodes     hash: node -> heartbeat
-- ARGV[1]  node
-- ARGV[2]  by        who says so
--
-- Answers: ok.

redis.call('HDEL', KEYS[6], ARGV[1])
redis.call('XADD', KEYS[5], 'MAXLEN', '~', 1000, '*', 'ask', 'forget', 'node', ARGV[1], 'by', ARGV[2])
return { 'ok' }
