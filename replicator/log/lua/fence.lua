-- The fence: may this writer change the log? Put in front of every script by log/redis_log.py, or where it says `include`.
--
-- KEYS[1]  term    string   the newest term, moved by INCR
-- KEYS[2]  log     stream   the records
-- KEYS[3]  head    hash     log_id run term node boot id chain changed snapshot_at previous_snapshot_at part_next
--                          ends taken paused paused_at applied_min whole whole_at
--
-- The effective term is the greater of the key and the head's: an evicted or deleted key does no harm, and an INCR by
-- hand fences everybody. Numbers are doubles here, so terms stay below 2^53; ids are compared and kept as texts.
--
-- Numbers move by no more than they can have: a record's n by one, outside a rebase; a term, and the n of a rebase, by
-- the leaps below. What is beyond was written by hand, and is refused; `replicator recover` sets it right.

local TERM_MAX = 9007199254740991
local TERM_LEAP = 1073741824
local N_LEAP = 1099511627776

local function as_text(number)
  return string.format('%.0f', number)
end

-- The clock of Redis, unix ms.
local function now_ms()
  local time = redis.call('TIME')
  return as_text(time[1] * 1000 + math.floor(time[2] / 1000))
end

-- What stands in the lease: "TERM NODE BOOT LENGTH_MS GRANTED_MS" (LeaseText in protocol/group.py says what for).
local function lease_text(term, node, boot, lease_ms)
  return table.concat({ term, node, boot, lease_ms, now_ms() }, ' ')
end

local function key_term()
  local text = redis.call('GET', KEYS[1])
  if not text then
    return 0
  end
  -- INCR refuses a leading zero, and would do so in the middle of a promotion.
  return (text == '0' or string.match(text, '^[1-9]%d*$')) and tonumber(text)
end

-- What is wrong with the term key, if no script can have written it; `term`: the head's, or 0 without one.
local function wrong_in_key(term)
  local taken = key_term()
  if not taken then
    return 'the term key holds no number'
  end
  if taken >= TERM_MAX then
    return 'the term key holds ' .. as_text(taken) .. ', and there are no more terms'
  end
  if term > 0 and taken > term + TERM_LEAP then
    return 'the term key holds ' .. as_text(taken) .. ', which is beyond every term that can have been taken'
  end
end

-- The same of the head: its newest record is of its term, and its numbers are numbers.
local function wrong_in_head(head)
  local term, n = string.match(head.id or '', '^([1-9]%d*)-([1-9]%d*)$')
  if not term or term ~= head.term or not head.boot or string.len(head.chain or '') ~= 32 then
    return 'the head does not fit together'
  end
  if tonumber(term) > TERM_MAX or tonumber(n) > TERM_MAX then
    return 'the head is at ' .. head.id .. ', which is beyond every record'
  end
end

-- nil if (term, boot) holds the effective term in `run`; else the answer for the writer:
--   lost                  there is no log
--   fenced TERM NODE      another holds the term, or this term is over
--   newrun                Redis is in another life than the one in which the term was taken
local function fence(head, run, term, boot)
  if not head.run or redis.call('EXISTS', KEYS[2]) == 0 then
    return { 'lost' }
  end
  local wrong = wrong_in_head(head)
  if wrong then
    return redis.error_reply('BADHEAD ' .. wrong)
  end
  local taken = key_term()
  if not taken then
    return redis.error_reply('BADTERM the term key holds no number')
  end
  local effective = math.max(taken, tonumber(head.term))
  if as_text(effective) ~= term or head.term ~= term or head.boot ~= boot then
    return { 'fenced', as_text(effective), head.node }
  end
  if head.run ~= run then
    return { 'newrun' }
  end
  return nil
end

local function read_head()
  local names = {
    'log_id', 'run', 'term', 'node', 'boot', 'id', 'chain', 'snapshot_at', 'previous_snapshot_at', 'part_next',
    'applied_min',
  }
  local values = redis.call('HMGET', KEYS[3], unpack(names))
  local head = {}
  for i, name in ipairs(names) do
    head[name] = values[i]
  end
  return head
end

local function newest_id()
  local info = redis.call('XINFO', 'STREAM', KEYS[2])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      return info[i + 1]
    end
  end
end

-- nil if `n` is the number after the newest record's; else the answer for a writer that counts otherwise.
local function not_next(head, n)
  if as_text(string.match(head.id, '-(%d+)$') + 1) == n then
    return nil
  end
  local newest = newest_id()
  return { newest == head.id and 'behind' or 'stray', newest }
end

-- One more field of a hash that is to be written in one step.
local function set(fields, name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end

-- The lesser of two counts, of which 0, or what is no number, is none.
local function least(one, other)
  local first, second = tonumber(one) or 0, tonumber(other) or 0
  if first == 0 or (second ~= 0 and second < first) then
    return as_text(second)
  end
  return as_text(first)
end

-- Somebody waits for so many standbys: the least there was says how many nodes may be missing when Redis has lost
-- something (protocol/missing_nodes.py). Put to what is written of the head.
local function remember_acks(fields, head, count)
  if count ~= '0' then
    set(fields, 'applied_min', least(count, head.applied_min))
  end
end

-- The newest entry is this very record: an earlier attempt stopped behind it, before the head was moved (`also`).
local function is_there(id, header, body)
  local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  local fields = newest and newest[1] == id and newest[2] or {}
  return #fields == 4 and fields[1] == 'h' and fields[2] == header and fields[3] == 'b' and fields[4] == body
end

-- XADD, the first write of every script: what fails here has changed nothing. Gives nil if the record is there.
local function add(id, header, body)
  local added = redis.pcall('XADD', KEYS[2], 'NOMKSTREAM', id, 'h', header, 'b', body)
  if not added then
    return { 'lost' }
  end
  if type(added) == 'table' and added.err then
    if not string.find(added.err, 'equal or smaller', 1, true) then
      return added
    end
    return not is_there(id, header, body) and { 'stray', newest_id() } or nil
  end
  return nil
end

-- A write that is not the first one of its script. Nothing should be in its way, as the script has looked at all that
-- could be, but for a user who lost a right meanwhile. What it refuses cannot be taken back. So it is no error, of which
-- the caller would think that nothing was written; it is the answer `halfway WHY`. Gives nil if it went well.
local function also(...)
  local done = redis.pcall(...)
  if type(done) == 'table' and done.err then
    return { 'halfway', done.err }
  end
  return nil
end

-- One life of Redis, and of its data: half of the run_id, which is new after every start, and half of the
-- master_replid, which is new also when a replica becomes the master. So a master that was demoted, took over the other
-- one's data and was promoted again, all without a restart, is another run: it may have lost records.
-- Redis takes a new master_replid, too, when its first replica attaches, and when it had none for an hour
-- (repl-backlog-ttl). Then the run ends although nothing was lost, which costs the group a pause of two heartbeats.
-- log/connection.py computes it in the same way. Two calls: 6.2 takes but one section.
local function server_run()
  local id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  local data = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
  return string.sub(id, 1, 16) .. '-' .. string.sub(data, 1, 16)
end
