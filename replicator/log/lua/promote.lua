-- Take the next term for (node, boot), and open it with its term record. It is one step: the term, its record, the
-- holder and the lease change together or not at all.
--
-- KEYS      term log head
-- KEYS[4]   lease     string with PX, see fence.lua; shows the others that the holder is alive
-- KEYS[5]   requests  stream of requests; the one appended here wakes the holder that was replaced
-- KEYS[8]   history   see history.lua
-- KEYS[9]   probe     means nothing, see rights.lua
-- ARGV[1]   node         the node to promote
-- ARGV[2]   boot         its boot
-- ARGV[3]   floor        the highest term that the node has on disk
-- ARGV[4]   expect       the term that the caller saw, or empty
-- ARGV[5]   expect_run   the run of Redis that the caller saw, or empty
-- ARGV[6]   lease_ms
-- ARGV[7]   new_log_id   found a log of this identity if there is none; empty: never found one
-- ARGV[8]   by           who asks for it: the node itself, or an operator
-- ARGV[9]   reason       why, for people
-- ARGV[10]  at           the caller's clock, unix ms, for people
-- ARGV[11]  expect_head  the id of the newest record that the caller saw, or empty
-- ARGV[12]  unleased     1: only if no lease runs
-- ARGV[13]  anew         1: found the log anew in the place of a broken one, never in the place of a whole one. If only
--                        the term key is wrong, that is set right, and the log continues
-- ARGV[14]  acks         the least `applied:N` that the caller knows of, for the head; 0: none
-- ARGV[15]  unfollowed   with `anew`: the id of the newest record if no node accepts it, though the log looks whole; or
--                        empty
-- ARGV[16]  expired      this lease does not count: the caller saw it run out by its own clock. Any other lease runs,
--                        and so does this one once it is renewed, because its text is another one then
-- ARGV[17]  app          the application of the node, which has to be that of the log; empty: it has none. A log that
--                        knows no application yet takes this one
-- ARGV[18]  version      the version of the application at which a log begins that is founded
-- ARGV[19]  what         for the history: what this promotion is; empty: what the script sees
-- ARGV[20]  forced       for the history: 1: it goes past what forbids it
-- ARGV[21]  ended        for the history: how the term before ended, if no lease runs, as the caller saw it
-- ARGV[22]  skip         the last change, which the node goes on without; empty: it does not
-- ARGV[23]  seal         what vouches for this claim (docs/sealed.md); a dash: the caller knows that nothing is sealed
--                        any more; empty: it knows of no key
-- ARGV[24]  misnamed     with `anew`: the log_id in the head, if the log is that of ARGV[7]; or empty. The log goes on, and
--                        the head says so
--
-- Answers
--   ok TERM ID RUN       (node, boot) holds TERM, in RUN; ID is the term record
--   conflict TERM NODE   the term or the newest record is not the expected one; or a lease runs
--   newrun               Redis is in another run than the expected one
--   lost                 there is no log (or only half of one: its head or its stream is gone)
--   stray ID             the newest entry is not one of ours
--   whole ID             the log is whole: there is nothing to found anew
--   otherapp APP         the log is of another application
--   sealed               the group has a key, and the caller has not: no node would accept the record
--   halfway WHY          the term was taken, but not all is done: it may have to be taken once more

-- include rights.lua
-- include history.lua

local ERA = 1048576

-- What a reader accepts (HEADER_BYTES_MAX in format/records.py): a term record that cannot be read would stop the
-- group.
local HEADER_BYTES_MAX = 16384

-- How many ends of terms a history keeps (ENDS_KEPT in format/term_ends.py), and how many of the terms that nodes took
-- by themselves (TAKEN_KEPT in protocol/group.py).
local ENDS_KEPT = 100
local TAKEN_KEPT = 16

-- The longest lease (LEASE_MS_MAX in protocol/group.py).
local LEASE_MS_MAX = 86400000

-- Whether the holder of the term can have a lease with this text (lease_of in protocol/group.py).
local function may_be_a_lease(text, head)
  local holder, length, granted = string.match(text, '^(.*) (%d+) (%d+)$')
  if not holder or #length > 16 or #granted > 16 or tonumber(length) > LEASE_MS_MAX then
    return false
  end
  return not head.term or holder == table.concat({ head.term, head.node, head.boot }, ' ')
end

-- The last `count` words of a text.
local function last_words(text, count)
  local words = {}
  for word in string.gmatch(text, '%S+') do
    words[#words + 1] = word
  end
  return table.concat(words, ' ', math.max(1, #words - count + 1))
end

-- How the term of `head` ends by this promotion, and when; or when its holder was last heard of, or ''. `lease`: the one
-- that runs, or ''. Each case is known for certain, but for the last one, where the caller knows more (docs/history.md).
local function how_it_ends(head, run, lease, what, notes)
  local left = stamp_of(notes.left, head.term)
  if left then
    return 'stopped', left
  end
  local gone = stamp_of(notes.gone, head.term)
  if gone then
    return 'crashed', gone
  end
  local since = tonumber(stamp_of(notes.since, head.term) or '0')
  local whole = redis.call('HMGET', KEYS[3], 'whole', 'whole_at')
  local heard = digits(whole[2])
  local seen = heard and whole[1] == head.run and tonumber(heard) >= since and heard or ''
  if head.run ~= run then
    return 'run changed', seen
  end
  local mine = head.term .. ' ' .. head.node .. ' ' .. head.boot .. ' '
  local ran = string.sub(lease, 1, #mine) == mine and lease ~= ARGV[16]
  if what == 'switchover' or what == 'demote' or (ARGV[1] == head.node and ARGV[2] == head.boot) then
    return 'stepped down', ran and now_ms() or seen
  end
  if ARGV[1] == head.node then
    return 'crashed', seen -- its next boot does not find that it stopped
  end
  if ran then
    return 'fenced', now_ms()
  end
  return ARGV[21] ~= '' and ARGV[21] or 'lease ran out', seen
end

-- The fields of an entry that say how the term before ended; none, if nobody held one.
local function ending(head, run, lease, what, notes, anew)
  if not head.term or head.node == 'nobody' then -- NOBODY in protocol/election.py
    return {}
  end
  local how, at
  if anew then
    how, at = 'log lost', ''
  else
    how, at = how_it_ends(head, run, lease, what, notes)
  end
  local fields = { 'ended', how, 'ended_term', head.term, 'ended_node', head.node, 'ended_at', at }
  local since = stamp_of(notes.since, head.term)
  if since and at ~= '' and tonumber(at) >= tonumber(since) then
    set(fields, 'lasted_ms', as_text(at - since))
  end
  return fields
end

local run = server_run()
local head = read_head()
local exists = redis.call('EXISTS', KEYS[2]) == 1
local requests = redis.call('TYPE', KEYS[5]).ok
local wrong_head = head.id and wrong_in_head(head)
local wrong_key = wrong_in_key(not wrong_head and tonumber(head.term or '0') or 0)
local anew = ARGV[13] == '1' and ARGV[7] ~= ''
if wrong_head and not anew then
  return redis.error_reply('BADHEAD ' .. wrong_head)
end
if wrong_key and not anew then
  return redis.error_reply('BADTERM ' .. wrong_key)
end
local taken = wrong_key and 0 or key_term()
if requests ~= 'none' and requests ~= 'stream' then
  return redis.error_reply('WRONGTYPE the requests key holds a ' .. requests)
end
local lease = redis.call('TYPE', KEYS[4]).ok
if lease ~= 'none' and lease ~= 'string' then
  return redis.error_reply('WRONGTYPE the lease key holds a ' .. lease)
end
local looks_whole = exists and head.run and not wrong_head and newest_id() == head.id
local misnamed = anew and looks_whole and ARGV[24] ~= '' and head.log_id == ARGV[24]
if anew and looks_whole and head.id ~= ARGV[15] then
  if not wrong_key and not misnamed then
    return { 'whole', head.id }
  end
  anew = false
end
local effective = math.max(taken, not wrong_head and tonumber(head.term or '0') or 0)
local acks = least(ARGV[14], head.applied_min)
local app = not wrong_head and head.app or ''
if app == '' then
  app = ARGV[17]
elseif ARGV[17] ~= '' and ARGV[17] ~= app then
  return { 'otherapp', app }
end
local is_sealed = redis.call('HGET', KEYS[3], 'sealed') == '1'
if is_sealed and ARGV[23] == '' then
  return { 'sealed' }
end
local before = wrong_head and {} or head
if anew then
  head, exists = {}, false
end
local founds = not exists and not head.run and ARGV[7] ~= ''
if not founds and (not exists or not head.run) then
  return { 'lost' }
end
if exists and newest_id() ~= head.id then
  return { 'stray', newest_id() }
end

if (ARGV[4] ~= '' and as_text(effective) ~= ARGV[4]) or (ARGV[11] ~= '' and head.id ~= ARGV[11]) then
  return { 'conflict', as_text(effective), head.node or '' }
end
-- Redis lets a lease expire at a moment of its clock. If that is set back, a lease outlives its holder by as much.
local running = redis.call('GET', KEYS[4])
if ARGV[12] == '1' and running and running ~= ARGV[16] and may_be_a_lease(running, head) then
  return { 'conflict', as_text(effective), head.node or '' }
end
if ARGV[5] ~= '' and run ~= ARGV[5] then
  return { 'newrun' }
end

if anew and effective > ARGV[3] + TERM_LEAP then
  effective = 0 -- the numbers of a broken log may be anything: what the caller has seen counts
end
local base = math.max(effective, tonumber(ARGV[3]))
if base > 0 and head.run ~= run then
  -- Redis may have lost terms of earlier runs, and the same number must not be taken twice.
  base = (math.floor(base / ERA) + 1) * ERA
end
if base >= TERM_MAX then
  return redis.error_reply('BADTERM there are no more terms')
end
local term = as_text(base + 1)
local n = 1
if head.id then
  n = tonumber(string.match(head.id, '-(%d+)$')) + 1
end
if n > TERM_MAX then
  return redis.error_reply('BADHEAD there are no more numbers for records')
end
local id = term .. '-' .. as_text(n)
local prev = head.chain or string.rep('0', 32)
local log_id = not misnamed and head.log_id or ARGV[7]
local ends = ''
local taken_lately = ''
if head.id then
  local known = redis.call('HMGET', KEYS[3], 'ends', 'taken')
  ends = last_words((known[1] or '') .. ' ' .. head.id, ENDS_KEPT)
  taken_lately = known[2] or ''
end
if ARGV[8] == ARGV[1] then
  taken_lately = last_words(taken_lately .. ' ' .. now_ms() .. '/' .. ARGV[1], TAKEN_KEPT)
end
local opens = {
  v = 1, kind = 'term', node = ARGV[1], boot = ARGV[2], prev = prev, at = tonumber(ARGV[10]),
  log_id = log_id, run = run, by = ARGV[8], reason = ARGV[9], ends = ends,
}
if app ~= '' then
  opens.app = app
end
if not head.id and tonumber(ARGV[18]) > 1 then
  opens.v, opens.version = 2, tonumber(ARGV[18]) -- a program that knows no versions must not read on
end
if ARGV[22] ~= '' then
  opens.skip = ARGV[22]
end
local seals = ARGV[23] ~= '' and ARGV[23] ~= '-'
if seals then
  opens.seal = ARGV[23]
end
local notes = read_notes()
local what = ARGV[19] ~= '' and ARGV[19] or founds and 'found' or ARGV[8] == ARGV[1] and 'takeover' or 'promote'
local told = ending(before, run, running or '', what, notes, anew)
for _, each in ipairs({
  { 'node', ARGV[1] }, { 'boot', ARGV[2] }, { 'by', ARGV[8] }, { 'reason', ARGV[9] }, { 'run', run }, { 'id', id },
  { 'forced', ARGV[20] == '1' and '1' or '' }, { 'skipped_id', ARGV[22] },
}) do
  set(told, each[1], each[2])
end
notes.term = term
local header = cjson.encode(opens)
if ARGV[1] == '' or ARGV[2] == '' or #header > HEADER_BYTES_MAX then
  return redis.error_reply('BADRECORD a term record names a node and a boot, and its reason is short')
end
local chain = string.sub(redis.sha1hex(prev .. header), 1, 32)

local fields = {
  'log_id', log_id, 'run', run, 'term', term, 'node', ARGV[1], 'boot', ARGV[2],
  'id', id, 'chain', chain, 'part_next', '0', 'ends', ends, 'taken', taken_lately,
}
remember_acks(fields, head, acks)
if app ~= '' then
  set(fields, 'app', app)
end
if seals or is_sealed then
  set(fields, 'sealed', seals and '1' or '')
end
local writes = {
  { 'HSET', KEYS[3], unpack(fields) },
  { 'SET', KEYS[1], as_text(base) },
  { 'INCR', KEYS[1] },
  { 'SET', KEYS[4], lease_text(term, ARGV[1], ARGV[2], ARGV[6]), 'PX', ARGV[6] },
  { 'XADD', KEYS[5], 'MAXLEN', '~', 1000, '*', 'request', 'term', 'node', ARGV[1], 'by', ARGV[8] },
}

-- What follows must not stop in the middle: a log without a head would be no log. So the rights that it needs are tried
-- first. Then XADD is the first write: if memory is short, or the id is refused, nothing has changed. Founding anew
-- begins with a DEL of what is of no use any more; an XADD after that is not refused for lack of memory.
local forbidden, unwritable = forbidden_of(KEYS[9], WRITES)
if #forbidden > 0 then
  return redis.error_reply('NOPERM this user may not use ' .. table.concat(forbidden, ', '))
end
if unwritable then
  return unwritable
end
if anew then
  redis.call('DEL', KEYS[2], KEYS[3])
end
redis.call('XADD', KEYS[2], id, 'h', header, 'b', '')
for _, write in ipairs(writes) do
  local failed = also(unpack(write))
  if failed and founds and write[1] == 'HSET' then
    redis.pcall('DEL', KEYS[2])
  end
  if failed then
    return failed
  end
end
tell(notes, what, term, told, { 'since', term .. ' ' .. now_ms() })
return { 'ok', term, id, run }
