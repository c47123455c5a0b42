-- Where the log is cut, when, and how what is cut is deleted. Included by part.lua and sweep.lua, and by no other script.
--
-- The first part of a snapshot cuts the log, in this step and nowhere else: everything up to the as_of of the newest
-- complete snapshot goes. So the log holds at most two snapshots, and a slow reader of the complete one has
-- until another one is complete and yet another begins. The last part does not cut, because then the log would hold
-- three snapshots while one is under way. And the snapshot that begins is no reason to cut, because it may never be
-- complete.
--
-- What is cut counts no more. It is deleted a slice at a time, by each part and by sweep.lua: Redis does nothing else
-- while it frees memory, and 50 MB take it 20 ms and more.

-- About what a slice deletes, in bytes; and how many steps it takes at the most.
local SLICE_BYTES = 524288
local SLICE_STEPS = 200

-- What a step deletes: so many entries, in whole nodes of the stream. A node has 4 KiB and 100 entries at the most,
-- unless the server was told otherwise; a larger entry has one of its own. Large ones may follow small ones.
local LARGE_BYTES, FEW, SOME, ENOUGH = 4096, 16, 32, 128

local function is_above(id, other)
  local term, n = string.match(id, '^(%d+)-(%d+)$')
  local other_term, other_n = string.match(other, '^(%d+)-(%d+)$')
  if term ~= other_term then
    return tonumber(term) > tonumber(other_term)
  end
  return tonumber(n) > tonumber(other_n)
end

-- Where a snapshot that begins cuts the log, as a record id; nil: it is cut there already.
--
-- The head's `previous_snapshot_at` says where it was cut, so that never goes back, though a rebase may complete a
-- snapshot whose as_of is below it.
local function cuts_at(head)
  local complete = head.snapshot_at or '0-0'
  if is_above(complete, head.previous_snapshot_at or '0-0') then
    return complete
  end
end

-- Up to where the log is cut: what the head says, and never what is behind the complete snapshot.
local function cut_of(head)
  local cut, complete = head.previous_snapshot_at or '0-0', head.snapshot_at or '0-0'
  return is_above(cut, complete) and complete or cut
end

-- Delete the oldest entries before `from`, the first of which has so many bytes: few of them, if their nodes let it.
-- Gives how many, or an error.
local function step(from, bytes)
  for _, most in ipairs({ bytes < LARGE_BYTES and SOME or FEW, ENOUGH }) do
    local deleted = redis.pcall('XTRIM', KEYS[2], 'MINID', '~', from, 'LIMIT', most)
    if deleted ~= 0 then
      return deleted
    end
  end
  return redis.pcall('XTRIM', KEYS[2], 'MINID', '=', from) -- the node in which the cut is
end

-- The bytes of the oldest entry up to `at`; nil: there is none; or an error.
local function weight_of_oldest(at)
  local found = redis.pcall('XRANGE', KEYS[2], '-', at, 'COUNT', 1)
  if found.err then
    return found
  end
  local fields = found[1] and found[1][2]
  return fields and #(fields[2] or '') + #(fields[4] or '') or nil
end

-- Delete a slice of everything up to the record `at`, and that record. Gives whether there is more; and, like `also`,
-- nil or what went wrong.
local function trim(at)
  local term, n = string.match(at, '^(%d+)-(%d+)$')
  local from = term .. '-' .. as_text(tonumber(n) + 1)
  local bytes, weight = 0, weight_of_oldest(at)
  for _ = 1, SLICE_STEPS do
    if not weight or bytes >= SLICE_BYTES then
      break
    end
    local deleted = type(weight) == 'table' and weight or step(from, weight)
    if type(deleted) == 'table' then
      return false, { 'halfway', deleted.err }
    end
    if deleted == 0 then
      return false -- nothing else would ever end it
    end
    local next_weight = weight_of_oldest(at)
    -- The entries in between are like either of them.
    local heavier = type(next_weight) == 'number' and math.max(weight, next_weight) or weight
    bytes, weight = bytes + deleted * heavier, next_weight
  end
  return weight ~= nil
end
