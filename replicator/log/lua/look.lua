-- Read all that is known about a group, in one consistent step. Writes nothing.
--
-- KEYS     term log head lease requests nodes
--
-- Answers { run, now_ms, term, head, stray, lease_ms, nodes, lease, wrong }
--   run       the run of Redis
--   now_ms    its clock
--   term      the effective term, 0 before the first; the head's, if the key cannot be right
--   head      name, value, name, value ...; empty if there is no log, or only half of one
--   stray     the newest id of the stream if it is not the head's: an entry that is not ours is, or was, there; or ''
--   lease_ms  what is left of the lease; below 0: there is none
--   nodes     node, heartbeat, node, heartbeat ...
--   lease     the text of the lease, or ''
--   wrong     what in the head or the term key cannot have been written by a script, or ''

local head = redis.call('HGETALL', KEYS[3])
local id = redis.call('HGET', KEYS[3], 'id')
local marred = id and wrong_in_head(read_head())
local term = not marred and tonumber(redis.call('HGET', KEYS[3], 'term')) or 0
local wrong_key = wrong_in_key(term)
local stray = ''
if not id or redis.call('EXISTS', KEYS[2]) == 0 then
  head = {}
else
  local newest = newest_id()
  if newest ~= id then
    stray = newest
  end
end
local lease = redis.pcall('GET', KEYS[4]) -- if the key holds something else, a promotion reports it
return {
  server_run(),
  now_ms(),
  as_text(wrong_key and term or math.max(key_term(), term)),
  head,
  stray,
  redis.call('PTTL', KEYS[4]),
  redis.call('HGETALL', KEYS[6]),
  type(lease) == 'string' and lease or '',
  marred and 'BADHEAD ' .. marred or wrong_key and 'BADTERM ' .. wrong_key or '',
}
