-- The history: what is done to the group, told in the very step that does it (docs/history.md). Included by the scripts
-- that are such a step.
--
-- It is for people, and decides nothing. So it is written last, and an entry that Redis refuses changes neither the step
-- nor its answer; the count in the head shows that one is missing.
--
-- KEYS[3]  head     history: how many entries there are; since, left, gone: "TERM UNIX_MS", when the term was taken,
--                   when its holder gave the lease back, and when somebody did who saw that it had ended
-- KEYS[8]  history  stream, capped; the fields of an entry are those of HistoryEntry in protocol/history.py

-- HISTORY_KEPT and TEXT_BYTES_MAX in protocol/history.py.
local HISTORY_KEPT = 10000
local TEXT_BYTES_MAX = 1000

-- The beginning of a text, up to the end of a character.
local function short(text)
  if #text <= TEXT_BYTES_MAX then
    return text
  end
  return (string.gsub(string.sub(text, 1, TEXT_BYTES_MAX), '[\192-\255][\128-\191]*$', ''))
end

local function write_history(fields)
  return redis.pcall('XADD', KEYS[8], 'MAXLEN', '=', HISTORY_KEPT, '*', unpack(fields))
end

-- A text that is a count, or unix ms; nil: somebody wrote something else.
local function digits(text)
  return #(text or '') < 16 and string.match(text or '', '^%d+$')
end

-- The stamp in a note "TERM UNIX_MS", if that is of this term; or nil.
local function stamp_of(note, term)
  local of, at = string.match(note or '', '^(%d+) (%d+)$')
  return of == term and digits(at) or nil
end

-- What the head says of the history: the count of its entries, and the notes `since`, `left` and `gone`.
local function read_notes()
  local values = redis.pcall('HMGET', KEYS[3], 'history', 'since', 'left', 'term', 'gone') -- an error has none of them
  local count = tonumber(digits(values[1]) or '0')
  return { count = count, since = values[2], left = values[3], term = values[4], gone = values[5] }
end

-- Write one entry, and count it. `also_in_head`: further fields of the head. What is empty is left out. Without a log
-- there is no head to count in, and the number is 0.
local function tell(notes, what, term, fields, also_in_head)
  local entry = { 'number', notes.term and as_text(notes.count + 1) or '0', 'at', now_ms(), 'what', what, 'term', term }
  for i = 1, #fields, 2 do
    if fields[i + 1] ~= '' then
      set(entry, fields[i], short(fields[i + 1]))
    end
  end
  if notes.term then
    redis.pcall('HSET', KEYS[3], 'history', entry[2], unpack(also_in_head or {}))
  end
  write_history(entry)
end
