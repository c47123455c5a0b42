-- Give the lease back, at a clean stop: whoever waits for it to run out need not wait. Only the holder's own lease.
--
-- KEYS[4]  lease     string
-- KEYS[5]  commands  stream of asks; the one appended here wakes those who would take over
-- ARGV[1]  term
-- ARGV[2]  boot
-- ARGV[3]  node
--
-- Answers: ok, whether there was one or not; halfway WHY: it is given back, and the ask could not be appended.

local mine = ARGV[1] .. ' ' .. ARGV[3] .. ' ' .. ARGV[2] .. ' '
if string.sub(redis.call('GET', KEYS[4]) or '', 1, #mine) == mine then
  redis.call('DEL', KEYS[4])
  local ask = { 'ask', 'vacant', 'node', ARGV[3], 'by', ARGV[3] }
  return also('XADD', KEYS[5], 'MAXLEN', '~', 1000, '*', unpack(ask)) or { 'ok' }
end
return { 'ok' }
