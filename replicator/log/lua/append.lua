-- Append one record after the head, if the writer may, and if the head is where it thinks (compare-and-append).
--
-- KEYS     term log head
-- KEYS[8]  history  see history.lua; only of a record that raises the version of the group
-- ARGV[1]  run     the run of Redis that the writer's connection learnt when it was made
-- ARGV[2]  term    the writer's term
-- ARGV[3]  boot    the writer's boot
-- ARGV[4]  prev    the chain before the record
-- ARGV[5]  chain   the chain after it
-- ARGV[6]  n       its number
-- ARGV[7]  header  its header, JSON
-- ARGV[8]  body    its body
-- ARGV[9]  carries 1: it carries changes; 0: it is a marker
-- ARGV[10] acks    how many standbys a caller waits for; 0: no caller waits
-- ARGV[11] version only of a record that raises the group to it
-- ARGV[12] by      who asks for that, for the history
--
-- Answers
--   ok                it is the newest record
--   duplicate ID      it was that already: this is a repeat
--   fenced TERM NODE, newrun, lost   see fence.lua
--   behind ID         the head is elsewhere: the log lost records that the writer has
--   stray ID          an entry that is not ours has a higher id
--   halfway WHY       it is in the log, but the head could not be moved: a repeat moves it

-- The shortcut: usually all is as the writer thinks, and a few comparisons show it. If they fail, or if Redis refuses
-- the id, nothing has changed yet, and the steps below find out what is the matter.
local held = redis.call('HMGET', KEYS[3], 'run', 'term', 'boot', 'chain', 'id')
if redis.call('GET', KEYS[1]) == ARGV[2]
  and held[1] == ARGV[1] and held[2] == ARGV[2] and held[3] == ARGV[3] and held[4] == ARGV[4]
  and held[5] == string.format('%s-%.0f', ARGV[2], ARGV[6] - 1) and ARGV[10] == '0' and not ARGV[11]
then
  local id = ARGV[2] .. '-' .. ARGV[6]
  local added = redis.pcall('XADD', KEYS[2], 'NOMKSTREAM', id, 'h', ARGV[7], 'b', ARGV[8])
  if type(added) == 'string' then
    local moved
    if ARGV[9] == '1' then
      moved = redis.pcall('HSET', KEYS[3], 'id', id, 'chain', ARGV[5], 'changed', id)
    else
      moved = redis.pcall('HSET', KEYS[3], 'id', id, 'chain', ARGV[5])
    end
    return type(moved) == 'table' and { 'halfway', moved.err } or { 'ok' }
  end
end

-- include fence.lua
-- include history.lua

local head = read_head()
local refused = fence(head, ARGV[1], ARGV[2], ARGV[3])
if refused then
  return refused
end
if head.chain == ARGV[5] then
  return { 'duplicate', head.id }
end
if head.chain ~= ARGV[4] then
  return { 'behind', head.id }
end
local astray = not_next(head, ARGV[6])
if astray then
  return astray
end
local id = ARGV[2] .. '-' .. ARGV[6]
local failed = add(id, ARGV[7], ARGV[8])
if failed then
  return failed
end
local fields = { 'id', id, 'chain', ARGV[5] }
if ARGV[9] == '1' then
  set(fields, 'changed', id)
end
remember_acks(fields, head, ARGV[10])
failed = also('HSET', KEYS[3], unpack(fields))
if ARGV[11] and not failed then
  tell(read_notes(), 'finalize', ARGV[2], { 'node', head.node, 'by', ARGV[12], 'version', ARGV[11], 'id', id })
end
return failed or { 'ok' }
