-- Give the lease back at a clean stop, or for a node that has ended, so that no node has to wait until it runs out.
-- Only the lease of that very boot.
--
-- KEYS[4]  lease     string
-- KEYS[5]  requests  stream of requests; the one appended here wakes the nodes that may take over
-- KEYS[8]  history   see history.lua; the head remembers when the lease was given back, so that the next term says so
-- ARGV[1]  term
-- ARGV[2]  boot
-- ARGV[3]  node
-- ARGV[4]  who asks for it: the node itself, or who saw it end
--
-- Answers: ok, whether there was a lease or not; halfway WHY: it is given back, but the request could not be appended.

-- include history.lua

local mine = ARGV[1] .. ' ' .. ARGV[3] .. ' ' .. ARGV[2] .. ' '
if string.sub(redis.call('GET', KEYS[4]) or '', 1, #mine) == mine then
  redis.call('DEL', KEYS[4])
  local request = { 'request', 'vacant', 'node', ARGV[3], 'by', ARGV[4] }
  local failed = also('XADD', KEYS[5], 'MAXLEN', '~', 1000, '*', unpack(request))
  local notes = read_notes()
  if notes.term == ARGV[1] then
    local itself = ARGV[4] == ARGV[3]
    local reason = itself and 'it stopped in order' or 'its process has ended'
    local fields = { 'node', ARGV[3], 'boot', ARGV[2], 'by', ARGV[4], 'reason', reason }
    tell(notes, itself and 'stop' or 'release', ARGV[1], fields, {
      itself and 'left' or 'gone', ARGV[1] .. ' ' .. now_ms(),
    })
  end
  return failed or { 'ok' }
end
return { 'ok' }
