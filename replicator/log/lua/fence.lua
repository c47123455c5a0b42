-- The fence: may this writer change the log? And what all scripts need. log/scripts.py puts it in front of every
-- script, or where a script says `include`.
--
-- KEYS[1]  term    string   the newest term, moved by INCR
-- KEYS[2]  log     stream   the records
-- KEYS[3]  head    hash     log_id run term node boot id chain changed snapshot_at previous_snapshot_at part_next
--                          ends taken paused paused_at applied_min whole whole_at app history since left
--
-- The effective term is the greater one of the key's and the head's: an evicted or deleted key does no harm, and an
-- INCR by hand fences every node. Numbers are doubles here, so terms stay below 2^53; ids are compared and stored as
-- texts.
--
-- Numbers move by no more than they possibly can: a record's n by one, outside a rebase; a term, and the n of a rebase,
-- by the leaps below. A number beyond that was written by hand, and is refused; `replicator recover` sets it right.

local TERM_MAX = 9007199254740991
local TERM_LEAP = 1073741824
local N_LEAP = 1099511627776

local function as_text(number)
  return string.format('%.0f', number)
end

-- The clock of Redis, unix ms.
local known_ms

-- Of a script, which is one step: the same wherever it is asked for.
local function now_ms()
  if not known_ms then
    local time = redis.call('TIME')
    known_ms = as_text(time[1] * 1000 + math.floor(time[2] / 1000))
  end
  return known_ms
end

-- The text of the lease: "TERM NODE BOOT LENGTH_MS GRANTED_MS" (LeaseText in protocol/group.py says why).
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

-- What is wrong with the term key, if no script can have written it; `term` is the head's, or 0 without a head.
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

-- The same for the head. In a sound one the newest record is of its term, and its numbers are numbers.
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
--   fenced TERM NODE      another node or boot holds the term, or this term is over
--   newrun                Redis is in another run than the one in which the term was taken
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
    'applied_min', 'app',
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

-- nil if `n` follows the number of the newest record; else the answer for a writer that counts otherwise.
local function not_next(head, n)
  if as_text(string.match(head.id, '-(%d+)$') + 1) == n then
    return nil
  end
  local newest = newest_id()
  return { newest == head.id and 'behind' or 'stray', newest }
end

-- Add a field to those of a hash that are to be written in one step.
local function set(fields, name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end

-- The lesser one of two counts. 0, or what is no number, does not count.
local function least(one, other)
  local first, second = tonumber(one) or 0, tonumber(other) or 0
  if first == 0 or (second ~= 0 and second < first) then
    return as_text(second)
  end
  return as_text(first)
end

-- A caller waits for `count` standbys. The least of all these counts says how many nodes may be missing after Redis
-- lost data (protocol/missing_nodes.py). It is added to the fields of the head that are about to be written.
local function remember_acks(fields, head, count)
  if count ~= '0' then
    set(fields, 'applied_min', least(count, head.applied_min))
  end
end

-- Whether the newest entry is this very record: an earlier attempt stopped after its XADD, before it moved the head
-- (`also`).
local function is_there(id, header, body)
  local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  local fields = newest and newest[1] == id and newest[2] or {}
  return #fields == 4 and fields[1] == 'h' and fields[2] == header and fields[3] == 'b' and fields[4] == body
end

-- XADD, the first write of a script: if it fails, nothing has changed. Returns nil if the record is in the log.
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

-- A write after the first one of a script. It should never fail: the script has checked all that could prevent it,
-- except that the user may have lost a right meanwhile. If it does fail, the first write cannot be undone. So the
-- result is no error, from which the caller would conclude that nothing was written; it is the answer `halfway WHY`.
-- Returns nil if it went well.
local function also(...)
  local done = redis.pcall(...)
  if type(done) == 'table' and done.err then
    return { 'halfway', done.err }
  end
  return nil
end

-- The run: one life of Redis and of its data. It is half of the run_id, which is new after every start, and half of the
-- master_replid, which is also new when a replica becomes the master. So a master that was demoted, took over the other
-- one's data and was promoted again, all without a restart, is in another run: it may have lost records.
-- Redis also takes a new master_replid when its first replica attaches, and when it had none for an hour
-- (repl-backlog-ttl). Then the run ends although nothing was lost, which costs the group a pause of two heartbeats.
-- log/finders.py computes it in the same way. Two calls, because Redis 6.2 accepts only one section.
local function server_run()
  local id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  local data = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
  return string.sub(id, 1, 16) .. '-' .. string.sub(data, 1, 16)
end
