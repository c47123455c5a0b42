-- Write a node's heartbeat, stamped with the clock of Redis: nobody's own clock decides who is alive.
--
-- KEYS[6]  nodes  hash: node -> "UNIX_MS JSON"
-- ARGV[1]  node
-- ARGV[2]  json   what the node says of itself
--
-- Answers: ok.

redis.call('HSET', KEYS[6], ARGV[1], now_ms() .. ' ' .. ARGV[2])
return { 'ok' }
