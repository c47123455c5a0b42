-- Ask something of a node that is an act on the group, so that the history tells of it.
--
-- KEYS[5]  requests  stream of requests
-- KEYS[8]  history   see history.lua
-- ARGV[1]  what      the request
-- ARGV[2]  node      the node that it is about
-- ARGV[3]  by        who asks for it
--
-- Answers: ok ID, that of the request.

-- include history.lua

local request = { 'request', ARGV[1], 'node', ARGV[2], 'by', ARGV[3] }
local id = redis.call('XADD', KEYS[5], 'MAXLEN', '~', 1000, '*', unpack(request))
local notes = read_notes()
tell(notes, ARGV[1], notes.term or '0', { 'node', ARGV[2], 'by', ARGV[3] })
return { 'ok', id }
