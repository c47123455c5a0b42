-- Put entries of the history back that Redis lost. A node that has them looks first which ones are missing, and what it
-- sends depends on that: if somebody else put some back meanwhile, nothing is written.
--
-- KEYS[8]  history   see history.lua
-- ARGV[1]  newest    the id of the newest entry in Redis when the node looked; 0-0: there was none
-- ARGV[2]  node      which node it is; the entries say so
-- ARGV[3+] entries   each a JSON object of texts
--
-- Answers
--   ok ID      they are there; ID is that of the newest entry now
--   behind ID  the newest entry is another one: look again

-- include history.lua

local found = redis.call('XREVRANGE', KEYS[8], '+', '-', 'COUNT', 1)[1]
local newest = found and found[1] or '0-0'
if newest ~= ARGV[1] then
  return { 'behind', newest }
end
local entries = {}
for i = 3, #ARGV do
  local fields = { 'restored_by', ARGV[2] }
  for name, text in pairs(cjson.decode(ARGV[i])) do
    set(fields, name, text)
  end
  entries[#entries + 1] = fields
end
for i, fields in ipairs(entries) do
  local added = write_history(fields)
  if type(added) == 'table' then
    return i == 1 and added or { 'ok', newest } -- the rest is missing still, and is sent again
  end
  newest = added
end
return { 'ok', newest }
