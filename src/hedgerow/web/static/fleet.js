// The fleet page. Names, labels and reasons come from devices: they are set as text, never as markup.

import { $, build, cell, put, rowHeading } from "./dom.js";
import { drawChart, drawVine } from "./drawing.js";
import * as words from "./words.js";

const RETRY_MILLISECONDS = 3000;
const SPEAK_MILLISECONDS = 5000;
const COMPACT_FROM = 41;
const ROUNDS_SHOWN = 200;

const cards = new Map();
let view = null;
let detailed = null; // what the reader chose; null until then
let spoken = "";
let drawn = "";

listen();
new ResizeObserver(() => draw(true)).observe(document.querySelector("main"));
setInterval(speak, SPEAK_MILLISECONDS);
$("detail").addEventListener("click", () => {
  detailed = !isDetailed();
  showDevices();
});

function listen() {
  const source = new EventSource("events");
  source.onopen = () => link("live", "live");
  source.onmessage = (event) => {
    view = JSON.parse(event.data);
    link("live", "live");
    show();
  };
  source.onerror = () => {
    if (view?.finished) link("over", "finished; these are the last figures");
    else link("lost", "connection lost, retrying");
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, RETRY_MILLISECONDS);
  };
}

function link(state, text) {
  $("link").dataset.state = state;
  put($("link"), text);
}

function show() {
  const headline = words.headline(view);
  document.title = `${headline} · ${view.fleet} · Hedgerow`;
  put($("fleet"), view.app && view.app !== view.fleet ? `${view.fleet} · ${view.app}` : view.fleet);
  put($("headline"), headline);
  put($("phase"), words.state(view));
  if (spoken === "") speak();
  showFigures();
  showResult();
  showRounds();
  showDevices();
  showOutcomes();
  const facts = [`Model version ${view.model_version}`];
  if (view.parameters > 0) facts.push(`${view.parameters.toLocaleString("en")} parameters`);
  if (view.model_hash) facts.push(`sha-256 ${view.model_hash.slice(0, 12)}…`);
  if (view.seconds > 0) facts.push(`running for ${words.seconds(view.seconds)}`);
  put($("model"), facts.join(" · "));
  draw(false);
}

/** A screen reader hears the state when it has changed, and no more often than every few seconds. */
function speak() {
  if (view === null) return;
  const text = `${words.headline(view)}. ${words.state(view)}`;
  if (text !== spoken) put($("spoken"), (spoken = text));
}

function draw(always) {
  if (view === null) return;
  const { rounds, round, rounds_done, rounds_planned, finished, phase } = view;
  const last = rounds.at(-1);
  const key = JSON.stringify([rounds.length, last, round, rounds_done, rounds_planned, finished, phase]);
  if (key === drawn && !always) return;
  drawn = key;
  const label = rounds_planned > 0 ? `${rounds_done} of ${rounds_planned} rounds done` : `${rounds_done} rounds done`;
  drawVine($("vine"), view, label);
  drawChart($("chart"), view);
}

function showFigures() {
  put($("bytes-up"), words.bytes(view.bytes_up));
  put($("bytes-down"), words.bytes(view.bytes_down));
  put($("bytes-kept"), words.bytes(view.bytes_kept));
  const measured = view.rounds.findLast((round) => round.accuracy_mean !== null);
  put($("accuracy-mean"), words.percent(measured?.accuracy_mean));
  put($("accuracy-worst"), words.percent(measured?.accuracy_worst));
  $("worst").hidden = measured === undefined;
  put(
    $("accuracy-note"),
    measured ? `after round ${measured.round}, on data held back from training` : "not measured yet",
  );
}

function showResult() {
  $("result").hidden = view.table.length === 0;
  if (view.table.length === 0) return;
  const columns = ["alone_own", "alone_others", "federated", "personalised", "pooled"];
  const kinds = ["", "", "ours", "ours", "forbidden"];
  const row = (name, values, lowest) => {
    const cells = values.map((value, column) => {
      const low = lowest !== undefined && value === lowest[column];
      return cell("td", words.percent(value), low ? `${kinds[column]} low` : kinds[column]);
    });
    return build("tr", "", [rowHeading(name), ...cells]);
  };
  const valuesOf = (entry) => columns.map((column) => entry[column]);
  const all = view.table.map(valuesOf);
  const mean = columns.map((_, column) => all.reduce((sum, v) => sum + v[column], 0) / all.length);
  const worst = columns.map((_, column) => Math.min(...all.map((v) => v[column])));
  const lowest = all.length > 1 ? worst : undefined;
  $("result-rows").replaceChildren(...view.table.map((e) => row(e.wearer, valuesOf(e), lowest)));
  $("result-feet").replaceChildren(row("Mean", mean), row("Worst", worst));
}

function showRounds() {
  $("rounds-empty").hidden = view.rounds.length > 0;
  $("rounds").hidden = view.rounds.length === 0;
  const rows = view.rounds.slice(-ROUNDS_SHOWN).reverse();
  const key = JSON.stringify(rows);
  if ($("round-rows").dataset.key === key) return;
  $("round-rows").dataset.key = key;
  $("round-rows").replaceChildren(...rows.map(roundRow));
}

function roundRow(round) {
  const texts =
    round.outcome === "published"
      ? [
          round.counted,
          words.seconds(round.seconds),
          words.bytes(round.update_bytes),
          words.percent(round.accuracy_mean),
          words.percent(round.accuracy_worst),
        ]
      : null;
  const heading = rowHeading(String(round.round));
  if (texts !== null) return build("tr", "", [heading, ...texts.map((t) => cell("td", String(t), ""))]);
  const note = cell("td", words.plain(round.outcome), "note");
  note.colSpan = 5;
  return build("tr", "", [heading, note]);
}

function showOutcomes() {
  const entries = Object.entries(view.outcomes).filter(([, count]) => count > 0);
  entries.sort(([a, m], [b, n]) => (b === "counted") - (a === "counted") || n - m);
  $("outcomes").hidden = entries.length === 0;
  $("outcome-rows").replaceChildren(
    ...entries.map(([code, count]) =>
      build("li", code === "counted" ? "good" : "", [
        cell("b", count.toLocaleString("en"), ""),
        " ",
        cell("span", words.outcome(code), ""),
      ]),
    ),
  );
}

function isDetailed() {
  return detailed ?? view.devices.length < COMPACT_FROM;
}

function showDevices() {
  const { devices } = view;
  $("devices-empty").hidden = devices.length > 0;
  $("detail").hidden = devices.length < COMPACT_FROM;
  $("detail").setAttribute("aria-pressed", String(isDetailed()));
  $("cards").classList.toggle("compact", !isDetailed());
  const here = devices.filter((device) => device.online).length;
  put($("tally"), devices.length > 0 ? `${here} of ${devices.length} here` : "");
  const gone = new Set(cards.keys());
  devices.forEach((device, place) => {
    gone.delete(device.id);
    let card = cards.get(device.id);
    if (card === undefined) cards.set(device.id, (card = newCard()));
    fillCard(card, device);
    if ($("cards").children[place] !== card.root) {
      $("cards").insertBefore(card.root, $("cards").children[place] ?? null);
    }
  });
  for (const id of gone) {
    cards.get(id).root.remove();
    cards.delete(id);
  }
}

function newCard() {
  const parts = {};
  const part = (key, tag, kind) => (parts[key] = cell(tag, "", kind));
  const name = part("name", "h3", "name");
  const phase = part("phase", "span", "badge");
  const label = part("label", "p", "label");
  const bar = part("bar", "span", "bar");
  const fill = part("fill", "span", "fill");
  bar.setAttribute("role", "meter");
  bar.setAttribute("aria-label", "confidence");
  bar.setAttribute("aria-valuemin", "0");
  bar.setAttribute("aria-valuemax", "100");
  bar.append(fill);
  const sure = build("div", "sure", [bar, part("confidence", "span", "confidence")]);
  const reason = part("reason", "p", "reason");
  const facts = ["own", "personal", "up", "kept"].map((key) => {
    const heading = { own: "Shared model", personal: "Personalised", up: "Sent", kept: "Kept here" }[key];
    return build("div", key, [cell("dt", heading, ""), part(key, "dd", "")]);
  });
  const list = build("dl", "facts", facts);
  parts.root = build("li", "card", [build("div", "who", [name, phase]), label, sure, reason, list]);
  return parts;
}

function fillCard(card, device) {
  const sure = Math.max(0, Math.min(1, device.confidence ?? 0));
  const decided = device.label !== "";
  card.root.classList.toggle("away", !device.online);
  card.root.classList.toggle("undecided", !decided);
  card.phase.dataset.phase = device.phase;
  put(card.name, device.name || device.id.slice(0, 8));
  card.name.title = device.name || device.id;
  put(card.phase, words.phaseOf(device));
  card.phase.title = words.phaseOf(device);
  put(card.label, decided ? device.label : "no decision yet");
  put(card.confidence, decided ? words.percent(sure, 0) : "");
  card.bar.setAttribute("aria-valuenow", String(Math.round(100 * sure)));
  card.fill.style.width = decided ? `${100 * sure}%` : "0";
  put(card.reason, device.reason);
  put(card.own, words.percent(device.accuracy));
  put(card.personal, words.percent(device.accuracy_personalised));
  put(card.up, words.bytes(device.bytes_up));
  put(card.kept, words.bytes(device.bytes_kept));
}
