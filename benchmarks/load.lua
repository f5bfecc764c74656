-- Deletion requests for wrk: every one names ten samples, has an Idempotency-Key of its own, and is sent at its time.
-- Environment: LOAD_FILE (an API key and a set in each line), LOAD_OUT, LOAD_RATE (a second; 0: as fast as answers come),
-- LOAD_PREFIX (of the Idempotency-Keys), LOAD_SEED, LOAD_FIRST and LOAD_NAMED (the rows that are named).
local ffi = require("ffi")
ffi.cdef [[
typedef struct { long seconds; long nanoseconds; } amun_time;
int clock_gettime(int clock, amun_time *at);
]]
local MONOTONIC = 1
local at = ffi.new("amun_time")

local function milliseconds()
  ffi.C.clock_gettime(MONOTONIC, at)
  return tonumber(at.seconds) * 1000 + tonumber(at.nanoseconds) / 1e6
end

local threads = {}
local number = 0

function setup(thread)
  thread:set("place", #threads)
  table.insert(threads, thread)
end

function init()
  rate, first, named = tonumber(os.getenv("LOAD_RATE")), tonumber(os.getenv("LOAD_FIRST")), tonumber(os.getenv("LOAD_NAMED"))
  prefix = os.getenv("LOAD_PREFIX") .. "-" .. place .. "-"
  math.randomseed(tonumber(os.getenv("LOAD_SEED")) + place)
  owners = {}
  for line in io.lines(os.getenv("LOAD_FILE")) do
    local key, set = line:match("^(%S+) (%S+)$")
    table.insert(owners, { key = key, set = set })
  end
  answers = "" -- of other kinds than 202: "status\n" each
  accepted, refused, next_at = 0, 0, 0
  lateness = {} -- by whole milliseconds
  late = ""
end

-- wrk asks before each request of a connection. Without answers in time all connections are in use, and requests leave late.
function delay()
  if rate == 0 then return 0 end
  local now = milliseconds()
  if next_at == 0 then next_at = now end
  local wait = next_at - now
  next_at = next_at + 1000 / rate
  if wait < 0 then
    local behind = math.min(math.floor(-wait), 60000)
    lateness[behind] = (lateness[behind] or 0) + 1
    return 0
  end
  lateness[0] = (lateness[0] or 0) + 1
  return math.floor(wait)
end

function request()
  number = number + 1
  local owner = owners[math.random(#owners)]
  local chosen, samples = {}, {}
  while #samples < 10 do
    local row = first + math.random(0, named - 1)
    if not chosen[row] then
      chosen[row] = true
      table.insert(samples, string.format('{"key":"train/%06d"}', row))
    end
  end
  local body = '{"training_set":"' .. owner.set .. '","samples":[' .. table.concat(samples, ",") .. ']}'
  local headers = {
    ["Authorization"] = "Bearer " .. owner.key,
    ["Content-Type"] = "application/json",
    ["Idempotency-Key"] = prefix .. number,
  }
  return wrk.format("POST", "/v1/deletion-requests", headers, body)
end

function response(status, headers, body)
  if status == 202 then
    accepted = accepted + 1
  else
    refused = refused + 1
    if refused <= 20 then answers = answers .. status .. " " .. body:sub(1, 300):gsub("\n", " ") .. "\n" end
  end
end

function done(summary, latency, requests)
  local out = io.open(os.getenv("LOAD_OUT"), "w")
  local errors = summary.errors
  out:write(string.format("duration %d\n", summary.duration))
  out:write(string.format("broken %d\n", errors.connect + errors.read + errors.write + errors.timeout))
  for _, thread in ipairs(threads) do
    out:write(string.format("accepted %d\nrefused %d\n", thread:get("accepted"), thread:get("refused")))
    for line in thread:get("answers"):gmatch("[^\n]+") do out:write("answer " .. line .. "\n") end
    for behind, count in pairs(thread:get("lateness")) do out:write(string.format("late %d %d\n", behind, count)) end
  end
  for i = 1, #latency do
    local value, count = latency(i)
    out:write(string.format("latency %d %d\n", value, count))
  end
  out:close()
end
