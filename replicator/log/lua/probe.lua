-- Which commands that a node needs are forbidden to this user? A node asks before it takes part, so that a missing
-- right shows then, and not in a write that stops in the middle.
--
-- KEYS     all keys of the group, so that a user who may not use one of them is refused here
-- KEYS[9]  probe  means nothing, see rights.lua
--
-- Answers: ok, and the names of the forbidden commands.

-- include rights.lua

local answer = { 'ok' }
for _, commands in ipairs({ WRITES, TRIMS, READS }) do
  for _, name in ipairs(forbidden_of(KEYS[9], commands)) do
    answer[#answer + 1] = name
  end
end
return answer
