-- Where the log is trimmed, and when. Included by part.lua, and by no other script.
--
-- The first part of a snapshot trims the log, in this step and nowhere else: everything up to the as_of of the newest
-- complete snapshot goes. So the log holds at most two snapshots, and a slow reader of the complete one has
-- until another one is complete and yet another begins. The last part does not trim, because then the log would hold
-- three snapshots while one is under way. And the snapshot that begins is no reason to trim, because it may never be
-- complete.

local function is_above(id, other)
  local term, n = string.match(id, '^(%d+)-(%d+)$')
  local other_term, other_n = string.match(other, '^(%d+)-(%d+)$')
  if term ~= other_term then
    return tonumber(term) > tonumber(other_term)
  end
  return tonumber(n) > tonumber(other_n)
end

-- Where a snapshot that begins trims the log, as a record id; nil: it is trimmed there already.
--
-- The head's `previous_snapshot_at` says where it was trimmed, so that never goes back, though a rebase may complete a
-- snapshot whose as_of is below it.
local function trims_at(head)
  local complete = head.snapshot_at or '0-0'
  if is_above(complete, head.previous_snapshot_at or '0-0') then
    return complete
  end
end

-- Delete everything up to that record, and the record. Gives what `also` gives: nil, or what went wrong.
local function trim(at)
  local term, n = string.match(at, '^(%d+)-(%d+)$')
  return also('XTRIM', KEYS[2], 'MINID', '=', term .. '-' .. as_text(tonumber(n) + 1))
end
