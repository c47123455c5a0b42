-- Delete a slice of what was cut from the log: it counts no more, so anybody may ask for it, as often as he likes.
--
-- KEYS     term log head
--
-- Answers
--   ok MORE       1: there may be more; 0: there is no more
--   halfway WHY   Redis refused to delete it

-- include trim.lua
local cut = cut_of(read_head())
if cut == '0-0' then
  return { 'ok', '0' }
end
local more, failed = trim(cut)
return failed or { 'ok', more and '1' or '0' }
