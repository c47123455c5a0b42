-- Remove the heartbeat of a node that will not come back, and tell the others, so that none waits for it any more.
--
-- KEYS[5]  requests  stream of requests
-- KEYS[6]  nodes     hash: node -> heartbeat
-- KEYS[8]  history   see history.lua
-- ARGV[1]  node
-- ARGV[2]  by        who asks for it
-- ARGV[3]  reason    why, for the history
--
-- Answers: ok; halfway WHY: it is gone, but the others could not be told.

-- include history.lua

redis.call('HDEL', KEYS[6], ARGV[1])
local request = { 'request', 'forget', 'node', ARGV[1], 'by', ARGV[2] }
local failed = also('XADD', KEYS[5], 'MAXLEN', '~', 1000, '*', unpack(request))
local notes = read_notes()
tell(notes, 'forget', notes.term or '0', { 'node', ARGV[1], 'by', ARGV[2], 'reason', ARGV[3] })
return failed or { 'ok' }
