// The list of streams, worst first, with search and pages; and everything about the one looked at.

import { ask, tell } from "./api.js";
import { askToForget, say } from "./acts.js";
import { $, build, cell, element, put } from "./dom.js";
import { UNDECIDED } from "./owner_words.js";
import { drawHistory, drawSignal, hue, spark } from "./plots.js";
import { localOf, periodOf } from "./times.js";
import * as words from "./words.js";

const PAGE = innerWidth < 704 ? 7 : 12;
const LATELY = 6;
const LOOK_MILLISECONDS = 2000;
const TYPING_MILLISECONDS = 200;
const STATES = ["alert", "drift", "quiet", "learning", "fine"];
export const STATE_WORDS = {
  alert: "needs a look",
  drift: "has changed",
  quiet: "silent",
  learning: "learning",
  fine: "as usual",
};
const CHIP_WORDS = { alert: "need a look", drift: "have changed", quiet: "silent", learning: "learning", fine: "as usual" };

const query = { search: "", state: "", order: "worst", page: 0, size: PAGE };
const rows = new Map();
let shown = null; // the name of the stream looked at
let detail = null;
let period = null; // what is marked: [start, end] in seconds
let scale = "minutes";
let now = 0;
let looking = false;

export function startStreams() {
  makeChips();
  let typing = 0;
  $("search").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => change({ search: $("search").value.trim() }), TYPING_MILLISECONDS);
  });
  $("order").addEventListener("change", () => change({ order: $("order").value }));
  $("before").addEventListener("click", () => turn(-1));
  $("after").addEventListener("click", () => turn(1));
  $("back").addEventListener("click", () => { location.hash = "now"; });
  for (const which of ["minutes", "day"]) {
    $(which).addEventListener("click", () => {
      scale = which;
      showDetail();
    });
  }
  $("mark").addEventListener("submit", label);
  $("mark-forget").addEventListener("click", () => askToForget(shown, inputPeriod() ?? period));
  for (const id of ["mark-from", "mark-to"]) {
    $(id).addEventListener("change", () => {
      period = inputPeriod();
      showDetail();
    });
  }
  new ResizeObserver(() => showDetail()).observe($("history"));
  addEventListener("hashchange", follow);
  setInterval(look, LOOK_MILLISECONDS);
  follow();
  look();
}

/** The counts and the clock, as the device tells them once a second. */
export function streamsTold(view) {
  now = view.time_seconds;
  put($("tally"), words.plural(view.streams.total, "stream", "streams"));
  const few = view.streams.total < 2;
  $("filters").hidden = few;
  $("pair").classList.toggle("alone", few);
  for (const chip of $("chips").children) {
    const state = chip.dataset.state;
    const count = state === "" ? view.streams.total : view.streams[state];
    put(chip.lastChild, state === "" ? `All ${words.count(count)}` : `${words.count(count)} ${count === 1 ? STATE_WORDS[state] : CHIP_WORDS[state]}`);
    chip.hidden = state !== "" && count === 0 && query.state !== state;
  }
  showLately(view.events, few);
  if (few && shown === null && view.worst.length === 1) {
    shown = view.worst[0].stream; // the only one there is: nothing to choose
    look();
  }
}

function showLately(events, few) {
  $("lately-box").hidden = few || events.length === 0;
  const key = JSON.stringify(events);
  if ($("lately").dataset.key === key) return;
  $("lately").dataset.key = key;
  $("lately").replaceChildren(...events.slice(0, LATELY).map((event) => eventRow(event, now, true)));
}

export async function openStreamAt(place) {
  const page = await ask("api/streams", { order: "name", size: 1, page: place });
  if (page.streams.length === 1) location.hash = hashOf(page.streams[0].stream);
}

function makeChips() {
  const chips = ["", ...STATES].map((state) => {
    const chip = build("button", "chip", [cell("span", "", `mark ${state}`), cell("span", "", "")]);
    chip.type = "button";
    chip.dataset.state = state;
    chip.setAttribute("aria-pressed", String(state === ""));
    chip.addEventListener("click", () => change({ state: query.state === state ? "" : state }));
    return chip;
  });
  $("chips").replaceChildren(...chips);
}

function change(wanted) {
  Object.assign(query, wanted, { page: 0 });
  for (const chip of $("chips").children) {
    chip.setAttribute("aria-pressed", String(chip.dataset.state === query.state));
  }
  look(true);
}

function turn(by) {
  query.page = Math.max(0, query.page + by);
  look(true);
}

/** A stream in the address can be linked to, and Back leaves it again. */
function follow() {
  const match = /^#stream=(.*)$/.exec(location.hash);
  const named = match === null ? null : decodeURIComponent(match[1]);
  if (match === null && rows.size < 2 && shown !== null) return;
  if (named !== shown) period = null;
  shown = named;
  detail = null;
  showDetail();
  look();
  if (named !== null) $("detail").focus({ preventScroll: innerWidth > 960 });
}

function hashOf(stream) {
  return `stream=${encodeURIComponent(stream)}`;
}

async function look(asked = false) {
  if (document.hidden || (looking && !asked)) return;
  looking = true;
  try {
    showPage(await ask("api/streams", query), asked);
    if (shown !== null) await lookCloser();
  } catch {
    // The head of the page says that the connection is lost; the next look may find it again.
  } finally {
    looking = false;
  }
}

async function lookCloser() {
  const wanted = shown;
  try {
    const found = await ask("api/stream", { name: wanted });
    if (wanted !== shown) return;
    detail = found;
  } catch (error) {
    if (detail === null) put($("detail-reason"), error.message);
    return;
  }
  showDetail();
}

function showPage(page, asked) {
  query.page = page.page;
  const first = page.page * PAGE + 1;
  const last = Math.min(page.matched, first + PAGE - 1);
  $("pages").hidden = page.pages < 2;
  put($("page"), `${words.count(first)} to ${words.count(last)} of ${words.count(page.matched)}`);
  $("before").disabled = page.page === 0;
  $("after").disabled = page.page + 1 >= page.pages;
  const narrowed = query.search !== "" || query.state !== "";
  $("rows-empty").hidden = page.matched > 0;
  put($("rows-empty"), narrowed ? "None like that." : "Nothing has been sensed yet. The first stream shows up here.");
  // Under a pointer or a focus nothing moves away: what is there is told anew where it stands.
  const held = !asked && $("rows").matches(":hover, :focus-within") && rows.size > 0;
  const wanted = held ? page.streams.filter((stream) => rows.has(stream.stream)) : page.streams;
  const gone = held ? new Set() : new Set(rows.keys());
  wanted.forEach((stream, place) => {
    gone.delete(stream.stream);
    let row = rows.get(stream.stream);
    if (row === undefined) rows.set(stream.stream, (row = newRow(stream.stream)));
    if (!held && $("rows").children[place] !== row.root) {
      $("rows").insertBefore(row.root, $("rows").children[place] ?? null);
    }
    fillRow(row, stream); // in its place: a spark is as wide as its row lets it be
  });
  for (const name of gone) {
    rows.get(name).root.remove();
    rows.delete(name);
  }
}

function newRow(name) {
  const parts = {};
  const part = (key, tag, kind) => (parts[key] = cell(tag, "", kind));
  parts.spark = element("svg", { class: "spark", "aria-hidden": "true" });
  const text = build("span", "row-text", [part("name", "span", "name"), part("reason", "span", "row-reason")]);
  parts.link = build("a", "row", [part("mark", "span", "mark"), text, parts.spark, part("value", "span", "value"), part("when", "span", "when")]);
  parts.link.href = `#${hashOf(name)}`;
  put(parts.name, name);
  parts.root = build("li", "", [parts.link]);
  return parts;
}

function fillRow(row, stream) {
  row.mark.className = `mark ${stream.state}`;
  row.root.dataset.state = stream.state;
  const says = stream.state === "fine" || stream.state === "learning" ? stream.label : "";
  put(row.reason, [says, stream.reason || STATE_WORDS[stream.state]].filter(Boolean).join(" · "));
  put(row.value, stream.score !== null ? words.figure(stream.score) : stream.label === "" ? "–" : words.percent(stream.confidence, 0));
  put(row.when, stream.time_seconds === null ? "" : whenOf(stream.time_seconds));
  if (shown === stream.stream) row.link.setAttribute("aria-current", "true");
  else row.link.removeAttribute("aria-current");
  row.link.setAttribute("aria-label", `${stream.stream}: ${STATE_WORDS[stream.state]}, ${row.reason.textContent}`);
  spark(row.spark, stream);
}

function whenOf(seconds) {
  const silent = now - seconds;
  // A replay's clock is years behind; then only the time of its own clock says anything.
  return silent >= -5 && silent < 30 * 86_400 ? words.ago(Math.max(0, silent)) : words.moment(seconds, now);
}

function showDetail() {
  $("pair").classList.toggle("open", shown !== null);
  $("detail").hidden = shown === null;
  if (shown === null) return;
  put($("detail-name"), shown);
  if (detail === null || $("history").querySelector("[data-marking]") !== null) return;
  const { stream } = detail;
  $("detail-state").className = `state ${stream.state}`;
  put($("detail-state"), STATE_WORDS[stream.state]);
  const scored = stream.score !== null;
  put($("detail-label"), saysOf(stream));
  put($("detail-reason"), [stream.reason, stream.model && `by ${stream.model}`].filter(Boolean).join(", "));
  put($("plot-title"), scored ? "Distance from normal" : "Confidence, and what was decided");
  $("minutes").setAttribute("aria-pressed", String(scale === "minutes"));
  $("day").setAttribute("aria-pressed", String(scale === "day"));
  drawHistory($("history"), detail[scale], period, mark);
  $("signal-box").hidden = detail.signal === null;
  if (detail.signal !== null) {
    const { signal } = detail;
    const long = (signal.samples[0]?.length ?? 0) / signal.rate_hz;
    put($("signal-note"), `· the newest ${words.seconds(long)}, ${words.plural(signal.channels.length, "channel", "channels")}`);
    drawSignal($("signal"), signal);
  }
  showEvents();
}

function saysOf(stream) {
  if (stream.state === "learning") return "Its normal is not known yet";
  const label = stream.label || "nothing decided";
  if (stream.score !== null) return `${label}, ${words.figure(stream.score)} × the threshold`;
  if (stream.label === UNDECIDED) return UNDECIDED;
  return stream.label === "" ? "Nothing decided yet" : `${label}, ${words.percent(stream.confidence, 0)}`;
}

function showEvents() {
  $("events-box").hidden = detail.events.length === 0;
  $("events").replaceChildren(...detail.events.map((event) => eventRow(event, now)));
  $("given-box").hidden = detail.given.length === 0;
  $("given").replaceChildren(
    ...detail.given.map((given) => {
      const from = words.moment(given.start_seconds, now);
      const to = words.moment(given.end_seconds, given.start_seconds);
      return build("li", "", [cell("span", "", `mark hue${hue(given.label, detail.minutes.labels)}`), cell("b", given.label, ""), cell("span", `${from} to ${to}`, "soft")]);
    }),
  );
  const known = new Set([...detail.minutes.labels, ...detail.given.map((given) => given.label), "normal"]);
  if ($("labels").children.length !== known.size) {
    $("labels").replaceChildren(...[...known].map((name) => { const option = cell("option", "", ""); option.value = name; return option; }));
  }
}

function eventRow(event, today, named = false) {
  const mark = cell("span", "", `mark ${event.alert ? "alert" : "fine"}`);
  const parts = [mark, cell("b", event.label || "undecided", ""), cell("span", event.reason, "soft grow"), cell("time", words.moment(event.time_seconds, today), "soft")];
  if (named) {
    const link = cell("a", event.stream, "name");
    link.href = `#${hashOf(event.stream)}`;
    parts.splice(1, 0, link);
  }
  return build("li", "", parts);
}

function mark(start, end) {
  period = [start, end];
  $("mark-from").value = localOf(start);
  $("mark-to").value = localOf(end);
  put($("mark-hint"), `${words.span(end - start)} marked.`);
  showDetail();
}

function inputPeriod() {
  return periodOf($("mark-from"), $("mark-to"));
}

async function label(event) {
  event.preventDefault();
  const marked = inputPeriod();
  const name = $("mark-label").value.trim();
  if (marked === null || name === "") {
    put($("mark-hint"), "A label needs a period that ends after it starts, and a name.");
    return;
  }
  try {
    const [start_seconds, end_seconds] = marked;
    const touched = await tell("api/label", { stream: shown, start_seconds, end_seconds, label: name });
    say(`“${name}” it was: ${words.plural(touched.windows, "stored window carries", "stored windows carry")} that label now.`);
    period = null;
    $("mark").reset();
    put($("mark-hint"), "Drag over the plot to mark a period.");
    await look(true);
  } catch (error) {
    put($("mark-hint"), error.message);
  }
}
