"use strict";
// The page of a group. Each event is a whole picture (picture.py); everything is drawn from it, and nothing is kept but
// the points of the plots. Text comes from others: it is only ever set as text.

const PLOT_POINTS = 180;
const at = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG.has(tag) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}
const SVG = new Set(["svg", "path", "line", "title", "desc"]);

/** Replace what is in `place`, unless it is the same: focus and selection stay where they are. */
function shown(place, ...children) {
  const box = document.createElement("div");
  box.append(...children);
  if (place.dataset.shown === box.innerHTML) return;
  place.dataset.shown = box.innerHTML;
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  place.replaceChildren(...box.childNodes);
  if (focused) place.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

/** Text in which `backticks` are commands. */
function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? element("code", {}, part) : part));
}

const two = (number) => String(number).padStart(2, "0");
function clock(ms) {
  const time = new Date(ms);
  return `${two(time.getUTCHours())}:${two(time.getUTCMinutes())}:${two(time.getUTCSeconds())}`;
}
const LAST_DAY_MS = 8.64e15; // what a Date can be
const day = (ms) => (Math.abs(ms) <= LAST_DAY_MS ? new Date(ms).toISOString().slice(0, 10) : "?");
function span(ms) {
  if (ms < 0) return "0 s";
  if (ms < 10000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}
function bytes(count) {
  if (count === null || count === undefined) return "not known";
  return count < 1e4 ? `${count} B` : count < 1e7 ? `${(count / 1e3).toFixed(1)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}
const MARKS = { ok: "✔", warning: "▲", problem: "✖" };

// --- what is now ----------------------------------------------------------------------------------------------------

/** While Redis is away what is shown was true when it was last reached, and nothing can be done. */
const isAway = (picture) => picture.redis_problem !== null;

function drawNow(picture) {
  const { status, headline } = picture;
  document.title = `${MARKS[headline.level]} ${status.group}: ${headline.text}`;
  at("group").textContent = status.group;
  at("told").textContent = `told by ${picture.told_by}`;
  at("now").dataset.level = headline.level;
  const text = `${MARKS[headline.level]} ${headline.text}`;
  if (at("headline").textContent !== text) at("headline").textContent = text;
  const facts = {
    term: status.era > 1 ? `${status.term} (era ${status.era}: Redis came back, or its log was founded anew)` : status.term,
    lease: isAway(picture) ? "not known" : status.lease_ms === null || status.lease_ms === undefined ? "none runs" : `${(status.lease_ms / 1000).toFixed(1)} s left`,
    head: status.last_id ?? "–",
    log: status.record_count === null || status.record_count === undefined ? "not known" : `${counted(status.record_count, "record")}, ${bytes(status.log_bytes)}`,
    app: status.app ?? "–",
    version: status.version ?? "–",
  };
  if (isAway(picture)) facts.Redis = `away for ${span(picture.redis_away_ms)}; what is shown is as old as that`;
  shown(at("facts"), ...Object.entries(facts).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, String(value)))));
}

function drawProblems(picture) {
  const items = picture.findings.map((check) =>
    element("li", { "data-level": check.level }, element("strong", {}, `${MARKS[check.level] ?? "?"} ${check.level}, ${check.check}`), ...prose(check.message)));
  shown(at("problems"), ...(items.length ? items : [element("li", { "data-level": "ok" }, "✔ None. ", ...standby(picture))]));
}
const standby = (picture) => picture.checks.filter((check) => check.check === "standbys").map((check) => `${check.message}.`);

function drawNodes(picture) {
  const rows = picture.status.nodes.map((node) => {
    const leads = node.role === "primary" && node.node === picture.status.holder;
    const away = isAway(picture);
    const level = away ? "unknown" : !node.alive || node.problem ? "problem" : node.in_sync ? "ok" : "warning";
    const state = `${away ? "was " : ""}${!node.alive ? "silent" : node.role}`;
    const lag = away || node.lag_records === null ? "not known" : node.lag_records === 0 ? "none" : `${counted(node.lag_records, "record")}${node.lag_ms ? `, ${span(node.lag_ms)}` : ""}`;
    const cells = {
      Role: element("span", { class: `mark ${level}` }, `${MARKS[level] ?? "–"} ${state}`),
      Position: node.position,
      Lag: leads ? "–" : lag,
      Reported: away ? "before Redis went away" : `${span(node.age_ms)} ago`,
      Version: node.reads_min === node.reads_max ? String(node.version) : `${node.version} (reads ${node.reads_min}–${node.reads_max})`,
      Problem: node.problem ? element("span", {}, ...prose(node.problem)) : "",
    };
    return element("tr", {}, element("th", { scope: "row" }, node.node),
      ...Object.entries(cells).map(([label, value]) => element("td", { "data-label": label, class: label === "Problem" ? "long" : null }, value)),
      element("td", { class: "act" }, ...actionsOf(node, leads, picture)));
  });
  shown(document.querySelector("#nodes tbody"), ...rows);
}

function actionsOf(node, leads, picture) {
  if (!picture.may_act || leads || !node.alive) return [];
  const orderly = picture.status.holder !== null && picture.status.nodes.some((each) => each.node === picture.status.holder && each.alive);
  const what = orderly ? "switchover" : "promote";
  return [element("button", { type: "button", "data-key": `${what}-${node.node}`, "data-act": what, "data-node": node.node, ...heldBack(picture) },
    orderly ? `Switch over to ${node.node} …` : `Promote ${node.node} …`)];
}

/** Of a button that could do nothing now: it can still be found, and says why. */
const heldBack = (picture) => (isAway(picture) ? { "aria-disabled": "true", "aria-describedby": "why-not" } : {});
const isHeldBack = (button) => button.getAttribute("aria-disabled") === "true";

// --- terms ----------------------------------------------------------------------------------------------------------

function drawTerms(picture) {
  const terms = picture.terms;
  if (!terms.length) return shown(at("lanes"), element("p", {}, "The history of the group has no terms."));
  const lanes = [...new Set([...picture.status.nodes.map((node) => node.node), ...terms.map((term) => term.holder || "nobody")])].sort();
  const newest = terms.length - 1;
  const head = element("tr", {}, element("td"), ...terms.map((term, index) =>
    element("th", { scope: "col" }, element("b", {}, `term ${term.term}`), ` ${term.began_at ? since(term.began_at, terms[index - 1]?.began_at) : ""}`)));
  const nodes = new Map(picture.status.nodes.map((node) => [node.node, node]));
  const rows = lanes.map((lane) => element("tr", {}, laneHead(lane, nodes.get(lane)),
    ...terms.map((term, index) => element("td", {},
      (term.holder || "nobody") === lane ? ledBlock(term, index === newest ? null : terms[index + 1], picture) : "",
      forkMark(term, nodes.get(lane))))));
  const scroller = at("lanes");
  const wasAtEnd = scroller.scrollLeft + scroller.clientWidth >= scroller.scrollWidth - 20 || !scroller.dataset.shown;
  shown(scroller, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
  if (wasAtEnd) scroller.scrollLeft = scroller.scrollWidth;
}
const since = (ms, before) => (before && day(before) === day(ms) ? clock(ms) : `${day(ms)} ${clock(ms)}`);

/** A node, and what it has seen of terms that were over. */
function laneHead(lane, node) {
  const stale = node?.stale_count ? element("small", {}, ` ⊘ ignored ${counted(node.stale_count, "stale record")}`) : null;
  return element("th", { scope: "row" }, lane, stale);
}

/** In the column of the term in which the history ends that its newest fork has. */
function forkMark(term, node) {
  if (!node?.fork_count || Number(node.fork_id.split("-")[0]) !== term.term) return null;
  const kept = node.fork_count > 1 ? `keeps ${node.fork_count} forks, the newest` : "keeps a fork";
  return element("div", { class: "fork" }, element("b", {}, `✂ ${kept} up to ${node.fork_id}`), element("code", {}, "replicator forks list"));
}
const counted = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

function ledBlock(term, next, picture) {
  const lasted = term.lasted_ms === null ? "" : `${span(term.lasted_ms)}, `;
  const newest = !next && picture.status.holder === term.holder;
  const current = newest && !isAway(picture);
  const how = [term.what, term.by && `by ${term.by}`].filter(Boolean).join(", ");
  return element("div", { class: current ? "led current" : "led" },
    element("b", {}, current ? "● leads" : newest ? "○ led when Redis was last reached" : `■ ${lasted}${term.ended ?? (next ? "ended" : "held it last")}`),
    term.reason ? `${how}: ${term.reason}` : how || "how it began is not known");
}

// --- plots ----------------------------------------------------------------------------------------------------------

const plots = [
  { title: "Records a second", text: (value) => `${value}/s`, values: (picture) => ({ written: picture.record_rate }) },
  { title: "Lag of each standby", text: (value) => counted(value, "record"), values: (picture) => Object.fromEntries(picture.status.nodes.filter((node) => node.node !== picture.status.holder).map((node) => [node.node, node.alive && !isAway(picture) ? node.lag_records : null])) },
  { title: "Redis answers in", text: (value) => `${value} ms`, values: (picture) => ({ look: picture.look_ms }) },
];
const points = [];

function drawPlots(picture) {
  points.push(plots.map((plot) => plot.values(picture)));
  if (points.length > PLOT_POINTS) points.shift();
  shown(at("plots"), ...plots.map((plot, index) => figure(plot, points.map((each) => each[index]))));
}

function figure(plot, history) {
  const names = [...new Set(history.flatMap((each) => Object.keys(each)))].sort();
  const top = Math.max(1e-9, ...history.flatMap((each) => Object.values(each).filter((value) => value !== null)));
  const newest = history[history.length - 1];
  const told = names.filter((name) => name in newest).map((name) => `${names.length > 1 || name !== "written" && name !== "look" ? `${name} ` : ""}${newest[name] === null || newest[name] === undefined ? "not known" : plot.text(round(newest[name]))}`).join(", ");
  const lines = names.map((name, ink) => element("path", { class: `line ink-${ink % 4}`, d: path(history.map((each) => each[name] ?? null), top) }));
  const legend = names.length > 1 ? element("p", { class: "legend" }, ...names.map((name, ink) => element("span", { class: `ink-${ink % 4}` }, `━ ${name}  `))) : null;
  return element("figure", {},
    element("figcaption", {}, element("span", {}, plot.title), element("b", {}, told || "no standby")),
    element("svg", { viewBox: "0 0 180 60", preserveAspectRatio: "none", role: "img", "aria-label": `${plot.title}, last ${history.length} s: now ${told}, at most ${plot.text(round(top))}` },
      element("line", { class: "axis", x1: 0, x2: 180, y1: 59, y2: 59 }), ...lines),
    element("p", { class: "legend" }, `highest ${plot.text(top > 1e-8 ? round(top) : 0)}`), legend);
}
const round = (value) => (value >= 100 ? Math.round(value) : Math.round(value * 10) / 10);

function path(values, top) {
  let drawn = "", pen = false;
  values.forEach((value, index) => {
    if (value === null) { pen = false; return; }
    const x = 180 - (values.length - 1 - index), y = 58 - (value / top) * 54;
    drawn += `${pen ? "L" : "M"}${x} ${y.toFixed(1)}`;
    pen = true;
  });
  return drawn;
}

// --- stages ---------------------------------------------------------------------------------------------------------

const STAGES = {
  queue: "queue: from the call until it is sent", append: "append: until Redis has it", apply: "apply: until the state has it",
  standby: "standby: from the primary's stamp until applied here", save: "save: until the checkpoint has it", sync: "sync: until it is on the disk for good",
};
const milliseconds = (ms) => (ms === null ? "–" : `${ms < 1 ? ms.toFixed(2) : ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`);

/** How long a change takes, stage by stage, on the node that serves the page. */
function drawStages(picture) {
  if (picture.stages === null) return shown(at("stages"), element("p", {}, "The page of each node (/ui there) shows how long a change takes on it."));
  const headings = ["Stage of a change", "Half within", "99 % within", "Times, last minute"];
  const rows = Object.keys(STAGES).flatMap((stage) => picture.stages.filter((each) => each.stage === stage)).map((each) =>
    element("tr", {}, element("th", { scope: "row" }, STAGES[each.stage]), ...[milliseconds(each.p50_ms), milliseconds(each.p99_ms), String(each.times)].map((cell) => element("td", {}, cell))));
  shown(at("stages"), rows.length
    ? element("table", {}, element("thead", {}, element("tr", {}, ...headings.map((each) => element("th", { scope: "col" }, each)))), element("tbody", {}, ...rows))
    : element("p", {}, "No change was seen on this node since the page was opened."));
}

// --- records --------------------------------------------------------------------------------------------------------

const hash = (text) => element("code", { title: text || null }, (text || "–").slice(0, 8));

function drawRecords(picture) {
  shown(document.querySelector("#records tbody"), ...picture.records.map((record) => element("tr", {},
    element("th", { scope: "row" }, record.id),
    element("td", {}, clock(record.written_at)), element("td", {}, record.node), element("td", { class: "long" }, record.what),
    element("td", {}, bytes(record.body_bytes)), element("td", {}, hash(record.prev)), element("td", {}, hash(record.chain)))));
}

// --- actions --------------------------------------------------------------------------------------------------------

// In the fragment, which no server sees; kept for a reload.
let token = new URLSearchParams(location.hash.slice(1)).get("token") ?? sessionStorage.getItem("replicator-token") ?? "";
if (location.hash.includes("token=")) {
  sessionStorage.setItem("replicator-token", token);
  history.replaceState(null, "", location.pathname);
}

const authorization = () => (token ? { Authorization: `Bearer ${token}` } : {});

async function ask(what, content) {
  const answer = await fetch(`ui/${what}`, {
    method: "POST",
    headers: { ...authorization(), "Content-Type": "application/json" },
    body: JSON.stringify(content),
  });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.message ?? found.detail ?? `${answer.status}`);
  return found;
}

function open(title, text, verb, { reason = true, force = false }, act) {
  const dialog = at("dialog"), button = at("dialog-do"), form = dialog.querySelector("form");
  form.reset();
  at("dialog-title").textContent = title;
  at("dialog-text").replaceChildren(...text);
  at("dialog-outcome").textContent = "";
  at("dialog-reason").hidden = !reason;
  at("dialog-force").hidden = !force;
  button.textContent = verb;
  button.disabled = force;
  button.hidden = false;
  form.elements.force.onchange = () => { button.disabled = force && !form.elements.force.checked; };
  form.onsubmit = (event) => { if (event.submitter?.value !== "cancel") event.preventDefault(); };
  button.onclick = async () => {
    button.disabled = true;
    at("dialog-outcome").textContent = "under way …";
    try {
      const done = await act({ reason: form.elements.reason.value.trim(), force: form.elements.force.checked });
      at("dialog-outcome").textContent = `✔ ${done.done}`;
      button.hidden = true;
    } catch (error) {
      at("dialog-outcome").textContent = `✖ ${error.message}`;
      button.disabled = false;
    }
  };
  if (!dialog.open) {
    const from = document.activeElement?.dataset?.key;
    dialog.showModal();
    // The button that opened it may have been drawn anew meanwhile.
    dialog.addEventListener("close", () => from && document.querySelector(`[data-key="${CSS.escape(from)}"]`)?.focus(), { once: true });
  }
}
const given = (reason) => (reason ? { reason } : {});

async function act(what, node) {
  let preview;
  try {
    preview = await ask("preview", { node });
  } catch (error) {
    return open(`${node}`, [element("p", {}, `✖ ${error.message}`)], "", {}, async () => ({})) ?? (at("dialog-do").hidden = true);
  }
  const lost = [...preview.losses, ...preview.unknowns.map((each) => `not known: ${each}`)];
  const refused = preview.refusal !== null;
  const text = [element("p", {}, ...prose(refused ? `Refused: ${preview.refusal}${preview.better_node ? `; ${preview.better_node} is the better one` : ""}` :
    lost.length ? "This would be lost, or may be:" : `Nothing is lost. ${node} lacks ${preview.lag_records === null ? "an unknown number of records" : counted(preview.lag_records, "record")}, to be read first.`)),
    ...(lost.length ? [element("ul", {}, ...lost.map((each) => element("li", {}, each)))] : [])];
  if (what === "switchover") {
    return open(`Switch over to ${node}?`, text, "Switch over", {}, ({ reason }) => ask("do/switchover", { node, ...given(reason) }));
  }
  open(`Promote ${node}?`, text, "Promote", { force: refused }, ({ reason, force }) => ask("do/promote", { node, force, expect: preview.term, ...given(reason) }));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-act]");
  if (button && !isHeldBack(button)) act(button.dataset.act, button.dataset.node);
});

function drawButtons(picture) {
  const may = picture.may_act && token !== "";
  document.body.classList.toggle("acts", may);
  at("buttons").hidden = !may;
  at("why-not").hidden = !may || !isAway(picture);
  const paused = picture.checks.some((check) => check.check === "failover" && check.message.includes("`replicator resume`"));
  const button = at("pause");
  button.textContent = paused ? "Resume failover …" : "Pause failover …";
  for (const name of ["aria-disabled", "aria-describedby"]) {
    if (isAway(picture)) button.setAttribute(name, heldBack(picture)[name]);
    else button.removeAttribute(name);
  }
  button.onclick = () => isHeldBack(button) ? null : paused
    ? open("Resume automatic failover?", [element("p", {}, "Nodes that are told to take over by themselves do so again.")], "Resume", { reason: false }, () => ask("do/resume", {}))
    : open("Pause automatic failover?", [element("p", {}, "No node takes over by itself until it is resumed, not even if the primary dies.")], "Pause", {}, ({ reason }) => ask("do/pause", given(reason)));
}

// --- events ---------------------------------------------------------------------------------------------------------

// When a picture came, and what came in its place since then.
let last = Date.now(), refused = "";
const drawers = [drawNow, drawProblems, drawNodes, drawTerms, drawPlots, drawStages, drawRecords, drawButtons];

// What the browser brings for that (EventSource) sends no token.
const AGAIN_MS = 1000;
async function listen() {
  for (;;) {
    try {
      const answer = await fetch("ui/events", { headers: authorization(), cache: "no-store" });
      if (answer.status === 401 || answer.status === 403) {
        await signedIn((await answer.json()).detail);
        continue;
      }
      if (answer.ok) await heard(answer.body);
      else { const told = await answer.json(); refused = told.detail ?? told.message ?? ""; }
    } catch { refused = ""; /* the clock below says for how long nothing was heard */ }
    await new Promise((go) => setTimeout(go, AGAIN_MS));
  }
}

async function heard(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) if (event.startsWith("data: ")) drawn(JSON.parse(event.slice(6)));
  }
}

function drawn(picture) {
  last = Date.now();
  refused = "";
  for (const draw of drawers) {
    try { draw(picture); } catch (error) { reportError(error); }
  }
}

/** Whoever looks has given a token. */
function signedIn(said) {
  const form = at("login");
  at("headline").textContent = "This page is for those who have a token.";
  at("now").dataset.level = "waiting";
  document.title = "replicator";
  at("login-said").textContent = token ? `✖ ${said}` : "";
  form.hidden = false;
  form.elements.token.focus();
  return new Promise((given) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      token = form.elements.token.value.trim();
      sessionStorage.setItem("replicator-token", token);
      form.reset();
      form.hidden = true;
      last = Date.now();
      given();
    };
  });
}

listen();

setInterval(() => {
  const silent = at("login").hidden ? Date.now() - last : 0;
  at("clock").textContent = `${clock(Date.now())} UTC`;
  if (silent > 5000) {
    at("now").dataset.level = "problem";
    const why = refused || "the process that serves it is gone, or hangs";
    const text = `✖ This page has heard nothing for ${span(silent)}: ${why}.`;
    at("headline").textContent = text;
    document.title = text;
  }
}, 1000);
