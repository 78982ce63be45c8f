// The owner's page. Names, labels and reasons come from outside: they are set as text, never as markup.

import { actsTold, startActs } from "./acts.js";
import { $, build, cell, put } from "./dom.js";
import * as owner from "./owner_words.js";
import { drawHedge } from "./plots.js";
import { sentTold, startSent } from "./sent.js";
import { openStreamAt, startStreams, streamsTold } from "./streams.js";
import * as words from "./words.js";

const RETRY_MILLISECONDS = 3000;
const SPEAK_MILLISECONDS = 5000;
const HEDGE_FROM = 4;

let view = null;
let source = null;
let placeAt = null;
let drawn = "";
let spoken = "";

startStreams();
startSent();
startActs();
listen();
setInterval(speak, SPEAK_MILLISECONDS);
new ResizeObserver(() => hedge(true)).observe(document.querySelector("main"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => hedge(true));
// A page that nobody sees costs the device nothing.
document.addEventListener("visibilitychange", () => (document.hidden ? hush() : listen()));
$("hedge").addEventListener("click", (event) => {
  const place = placeAt?.(event.offsetX, event.offsetY) ?? null;
  if (place !== null) openStreamAt(place);
});

function listen() {
  if (source !== null || document.hidden) return;
  source = new EventSource("events");
  source.onopen = () => link("live", "live");
  source.onmessage = (event) => {
    view = JSON.parse(event.data);
    link("live", "live");
    show();
  };
  source.onerror = () => {
    link("lost", "connection lost, retrying");
    if (source.readyState !== EventSource.CLOSED) return;
    hush();
    setTimeout(listen, RETRY_MILLISECONDS);
  };
}

function hush() {
  source?.close();
  source = null;
}

function link(state, text) {
  $("link").dataset.state = state;
  put($("link"), text);
}

function show() {
  const headline = owner.headline(view);
  document.title = `${headline} · ${view.name} · Hedgerow`;
  put($("name"), view.app && view.app !== view.name ? `${view.name} · ${view.app}` : view.name);
  put($("headline"), headline);
  put($("phase"), owner.phase(view));
  if (spoken === "") speak();
  showFigures();
  showSharing();
  showModel();
  showStored();
  showDevice();
  streamsTold(view);
  sentTold(view);
  actsTold(view);
  hedge(false);
}

/** A screen reader hears the state when it has changed, and no more often than every few seconds. */
function speak() {
  if (view !== null && owner.headline(view) !== spoken) put($("spoken"), (spoken = owner.headline(view)));
}

function hedge(always) {
  if (view === null) return;
  $("hedge").hidden = view.states.length < HEDGE_FROM;
  if ($("hedge").hidden || (view.states === drawn && !always)) return;
  drawn = view.states;
  placeAt = drawHedge($("hedge"), view.states);
  $("hedge").setAttribute("aria-label", owner.counted(view.streams));
}

function showFigures() {
  const { sent, stored, sharing, energy } = view;
  put($("sent-today"), words.bytes(sent.bytes_today));
  const today = sent.classes.reduce((sum, entry) => sum + entry.messages_today, 0);
  const all = `${words.bytes(sent.bytes)} in all`;
  put($("sent-note"), sent.messages === 0 ? "nothing ever left" : `in ${words.plural(today, "message", "messages")}; ${all}`);
  put($("kept"), words.bytes(stored.kept.reduce((sum, entry) => sum + entry.bytes, 0)));
  put($("kept-note"), owner.keptNote(stored));
  put($("sharing-state"), sharing.fleet === "" ? "off" : sharing.paused ? "paused" : "on");
  $("sharing-state").classList.toggle("worst", sharing.paused);
  put($("sharing-note"), owner.sharingNote(view));
  put($("energy"), owner.energyFigure(energy));
  put($("energy-note"), owner.energyNote(energy));
}

function showSharing() {
  const { sharing, privacy } = view;
  const [says, because] = owner.sharing(view);
  put($("sharing-says"), says);
  put($("sharing-because"), because);
  $("pause").hidden = sharing.fleet === "" && !sharing.paused;
  put($("pause"), sharing.paused ? "Resume sharing" : "Pause sharing");
  $("pause").setAttribute("aria-pressed", String(sharing.paused));
  $("task").hidden = sharing.task === null;
  if (sharing.task !== null) put($("task-says"), owner.task(view));
  const [spent, why] = owner.privacy(privacy);
  put($("privacy-says"), spent);
  put($("privacy-because"), why);
}

function showModel() {
  const { model } = view;
  put($("model-says"), `${model.name} ${model.version}`);
  put($("model-why"), owner.why(view));
  facts($("model-facts"), owner.modelFacts(model));
  $("trials-empty").hidden = model.trials.length > 0;
  const key = JSON.stringify(model.trials);
  if ($("trials").dataset.key === key) return;
  $("trials").dataset.key = key;
  $("trials").replaceChildren(...model.trials.map(trial));
}

function trial(entry) {
  const head = build("p", "trial-head", [
    cell("b", entry.model, ""),
    cell("span", owner.stage(entry), `stage ${entry.stage}`),
    cell("time", words.moment(entry.time_seconds, view.time_seconds), "soft"),
  ]);
  const measures = owner.measures(entry.measures);
  const rest = [entry.windows > 0 ? words.plural(entry.windows, "window", "windows") : "", measures].filter(Boolean).join("; ");
  return build("li", entry.stage, [head, cell("p", entry.why, "because"), cell("p", rest, "soft")].filter((node) => node.textContent !== ""));
}

function showStored() {
  const { stored } = view;
  $("full").hidden = !stored.full;
  const key = JSON.stringify([stored.kept, view.time_seconds - (view.time_seconds % 60)]);
  if ($("shelves").dataset.key !== key) {
    $("shelves").dataset.key = key;
    $("shelves").replaceChildren(...stored.kept.map(shelf));
  }
  facts($("stored-facts"), owner.storedFacts(stored));
}

function shelf(kept) {
  const head = build("p", "shelf-head", [cell("b", owner.shelfName(kept), ""), cell("span", owner.shelfSize(kept), "soft")]);
  const parts = [head];
  if (kept.bytes_max !== null && kept.bytes_max > 0) {
    const fill = cell("span", "", "fill");
    fill.style.width = `${Math.min(100, (100 * kept.bytes) / kept.bytes_max).toFixed(1)}%`;
    const bar = build("span", "bar", [fill]);
    bar.setAttribute("role", "meter");
    bar.setAttribute("aria-label", `${owner.shelfName(kept)}: share of what may be kept`);
    bar.setAttribute("aria-valuemin", "0");
    bar.setAttribute("aria-valuemax", String(kept.bytes_max));
    bar.setAttribute("aria-valuenow", String(kept.bytes));
    parts.push(bar);
  }
  parts.push(cell("p", owner.shelfSpan(kept, view.time_seconds), "soft"));
  return build("li", "", parts.filter((node) => node.textContent !== "" || node.className === "bar"));
}

function showDevice() {
  facts($("device-facts"), owner.deviceFacts(view));
  put($("identity"), `${view.device} · Hedgerow ${view.version}`);
  const key = JSON.stringify(view.sensors.map((entry) => ({ ...entry, count: 0 })));
  if ($("things").dataset.key !== key) {
    $("things").dataset.key = key;
    $("things").replaceChildren(...view.sensors.map(thing));
  }
  view.sensors.forEach((entry, place) => put($("things").children[place].lastChild, owner.thingCount(entry)));
}

function thing(entry) {
  const kind = entry.kind === entry.name ? entry.role : entry.kind;
  return build("li", "", [
    cell("span", "", `mark ${entry.up ? "fine" : "alert"}`),
    cell("b", entry.name, ""),
    cell("span", entry.up ? kind : [kind, `down: ${entry.why || "no reason given"}`].filter(Boolean).join(", "), entry.up ? "soft grow" : "wrong grow"),
    cell("span", "", "soft"),
  ]);
}

/** A list of names and values, filled anew only where something changed. */
function facts(list, pairs) {
  const key = pairs.map(([name]) => name).join("\n");
  if (list.dataset.key !== key) {
    list.dataset.key = key;
    list.replaceChildren(...pairs.map(([name]) => build("div", "", [cell("dt", name, ""), cell("dd", "", "")])));
  }
  pairs.forEach(([, value], place) => put(list.children[place].lastChild, value));
}
