-- Append one part of a snapshot. The last part makes the snapshot complete.
--
-- The first part of the next snapshot cuts the log, and each part deletes a slice of what is cut (trim.lua).
--
-- KEYS      term log head
-- ARGV[1-8] as for append: run term boot prev chain n header body
-- ARGV[9]   part    its index, from 0
-- ARGV[10]  parts   how many there are; 0 before the last one
-- ARGV[11]  as_of   the id of the record at which the state was drawn
-- ARGV[12]  rebase  1: the first part need not follow the head. A holder that is ahead of a log which lost records
--                   continues at its own n and chain
-- ARGV[13]  changed the last change in the log's history once the snapshot is complete; empty: as before
-- ARGV[14]  ends    those of the history that the snapshot describes, if that takes the place of the log's
-- ARGV[15]  acks    how many standbys a caller waits for, once it is complete; 0: no caller waits
--
-- Answers: those of append, and
--   restart           the part does not follow the one before it: begin the snapshot anew

-- include trim.lua
local head = read_head()
local refused = fence(head, ARGV[1], ARGV[2], ARGV[3])
if refused then
  return refused
end
if head.chain == ARGV[5] then
  return { 'duplicate', head.id }
end
local part = tonumber(ARGV[9])
local parts = tonumber(ARGV[10])
local rebases = ARGV[12] == '1' and part == 0
if head.chain ~= ARGV[4] and not rebases then
  return { 'behind', head.id }
end
if part ~= 0 and head.part_next ~= ARGV[9] then
  return { 'restart' }
end
local id = ARGV[2] .. '-' .. ARGV[6]
if rebases then
  -- It leaves a gap of ids, so XADD would not notice an entry that something else wrote there.
  if newest_id() ~= head.id and not is_there(id, ARGV[7], ARGV[8]) then
    return { 'stray', newest_id() }
  end
  local before = tonumber(string.match(head.id, '-(%d+)$'))
  if tonumber(ARGV[6]) <= before then
    return { 'behind', head.id }
  end
  if tonumber(ARGV[6]) > before + N_LEAP then
    return redis.error_reply('BADRECORD number ' .. ARGV[6] .. ' is beyond every one that can come after ' .. head.id)
  end
else
  local astray = not_next(head, ARGV[6])
  if astray then
    return astray
  end
end
local failed = add(id, ARGV[7], ARGV[8])
if failed then
  return failed
end
local cut_at = part == 0 and cuts_at(head)
local fields = { 'id', id, 'chain', ARGV[5], 'part_next', part + 1 == parts and '0' or as_text(part + 1) }
if cut_at then
  set(fields, 'previous_snapshot_at', cut_at)
end
if part + 1 == parts then
  set(fields, 'snapshot_at', ARGV[11])
  if ARGV[13] ~= '' then
    set(fields, 'changed', ARGV[13])
  end
  if ARGV[12] == '1' then
    set(fields, 'ends', ARGV[14])
  end
  remember_acks(fields, head, ARGV[15])
end
-- The head changes in one step, and trimming comes last: a head that says so of a log that is not trimmed yet does no
-- harm.
failed = also('HSET', KEYS[3], unpack(fields))
local cut = cut_at or cut_of(head)
if cut ~= '0-0' and not failed then
  local _
  _, failed = trim(cut)
end
return failed or { 'ok' }
