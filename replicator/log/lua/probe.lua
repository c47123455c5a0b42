-- What of all that a node has to do may this user not do? Asked before a node takes part: a right that is missing is told
-- then, and not by a write that stops in the middle.
--
-- KEYS     all of the group, so that a user who may not use one of them is refused here
-- KEYS[8]  probe  means nothing, see rights.lua
--
-- Answers: ok, and the names of the commands that are forbidden.

-- include rights.lua

local answer = { 'ok' }
for _, commands in ipairs({ WRITES, READS }) do
  for _, name in ipairs(forbidden_of(KEYS[8], commands)) do
    answer[#answer + 1] = name
  end
end
return answer
