-- Which commands may this user use? For scripts that include it. Redis' own ACL DRYRUN came after 6.2, and needs a
-- right itself.
--
-- Each command is tried on a key that means nothing, with arguments that have as little effect as possible: Redis
-- checks rights before anything else. Keys need no trial: a user who may call a script may use all keys that it was
-- called with.

-- The commands of a promotion. SET comes first: a server that accepts no writes now (no memory, a replica) refuses
-- it like any other first write. What SET leaves if DEL is forbidden expires after a moment.
local WRITES = {
  { 'SET', '0', 'PX', '1000' }, { 'DEL' }, { 'INCR' }, { 'DEL' }, { 'HSET', 'h', '' }, { 'DEL' },
  { 'XADD', 'MAXLEN', '~', '1', '*', 'h', '' }, { 'DEL' },
}

-- What a primary needs beyond that.
local TRIMS = { { 'XTRIM', 'MINID', '=', '1' } }

-- The commands that only read.
local READS = {
  { 'GET' }, { 'EXISTS' }, { 'TYPE' }, { 'PTTL' }, { 'HGET', 'h' }, { 'HMGET', 'h' }, { 'HGETALL' },
  { 'XINFO', 'STREAM' }, { 'XRANGE', '-', '+' }, { 'XREVRANGE', '-', '+' }, { 'XREAD' }, { 'TIME' }, { 'INFO' },
}

local function is_forbidden(answer)
  if type(answer) ~= 'table' or not answer.err then
    return false
  end
  for _, text in ipairs({ 'NOPERM', 'ACL failure', "can't run this command", 'no permissions' }) do
    if string.find(answer.err, text, 1, true) then
      return true
    end
  end
  return false
end

-- The command, with the key at its place.
local function on(key, command)
  local name = command[1]
  if name == 'XINFO' then
    return { name, 'STREAM', key }
  elseif name == 'XREAD' then
    return { name, 'COUNT', '1', 'STREAMS', key, '0' }
  elseif name == 'TIME' or name == 'INFO' then
    return command
  end
  return { name, key, unpack(command, 2) }
end

-- The names of the forbidden commands; and the answer to the first command, if it was refused for another reason.
local function forbidden_of(key, commands)
  local names, known, refused = {}, {}, nil
  for i, command in ipairs(commands) do
    local name = string.lower(command[1])
    local answer = redis.pcall(unpack(on(key, command)))
    if is_forbidden(answer) and not known[name] then
      names[#names + 1], known[name] = name, true
    elseif i == 1 and type(answer) == 'table' and answer.err then
      refused = answer
    end
  end
  return names, refused
end
