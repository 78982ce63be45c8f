// Every message that left, by class, bytes, time and purpose; and whether the chain of them holds.

import { ask, tell } from "./api.js";
import { $, build, cell, put, rowHeading } from "./dom.js";
import { drawDays } from "./plots.js";
import * as words from "./words.js";

const PAGE = innerWidth < 704 ? 6 : 12;

let view = null;
let before = null; // older than this number; null: the newest
let kind = "";
let told = "";
let oldest = null;
let verified = null;
let verifiedAt = 0; // how many messages had left then

export function startSent() {
  $("sent-kind").addEventListener("change", () => {
    kind = $("sent-kind").value;
    before = null;
    look();
  });
  $("newest").addEventListener("click", () => {
    before = null;
    look();
  });
  $("older").addEventListener("click", () => {
    before = oldest;
    look();
  });
  $("verify").addEventListener("click", verify);
  new ResizeObserver(() => drawAll()).observe($("days"));
}

/** The sums, as the device tells them; the list is asked for when it has grown. */
export function sentTold(now) {
  view = now;
  const { sent } = view;
  for (const id of ["seal", "sent-kind", "sums"]) $(id).hidden = sent.messages === 0;
  const key = `${sent.messages} ${sent.bytes} ${sent.head}`;
  if (key === told) return;
  told = key;
  const order = orderOf(sent);
  $("classes").hidden = sent.classes.length === 0;
  $("class-rows").replaceChildren(...order.map((name, number) => classRow(sent, name, number)));
  showKinds(order);
  drawAll();
  showSeal();
  if (before === null) look();
}

function orderOf(sent) {
  return [...sent.classes].sort((a, b) => b.bytes - a.bytes).map((entry) => entry.kind);
}

function drawAll() {
  if (view === null) return;
  const { sent } = view;
  drawDays($("days"), sent.days, orderOf(sent));
}

function classRow(sent, name, number) {
  const entry = sent.classes.find((found) => found.kind === name);
  const heading = rowHeading("");
  heading.append(cell("span", "", `mark hue${number % 6}`), cell("span", words.plain(name), ""));
  const cells = [words.count(entry.messages), words.bytes(entry.bytes), words.bytes(entry.bytes_today)];
  return build("tr", "", [heading, ...cells.map((text) => cell("td", text, ""))]);
}

function showKinds(order) {
  const options = ["", ...order].map((name) => {
    const option = cell("option", name === "" ? "all classes" : words.plain(name), "");
    option.value = name;
    return option;
  });
  if ($("sent-kind").children.length === options.length) return;
  $("sent-kind").replaceChildren(...options);
  $("sent-kind").value = kind;
}

async function look() {
  let page;
  try {
    page = await ask("api/sent", { before, kind, size: PAGE });
  } catch {
    return; // the head of the page says what is wrong
  }
  oldest = page.entries.at(-1)?.number ?? null;
  $("messages").hidden = page.entries.length === 0;
  $("messages-empty").hidden = page.entries.length > 0;
  $("message-pages").hidden = before === null && !page.more;
  $("newest").disabled = before === null;
  $("older").disabled = !page.more;
  $("message-rows").replaceChildren(...page.entries.map(messageRow));
}

function messageRow(entry) {
  const time = rowHeading(words.moment(entry.time_seconds, view?.time_seconds ?? entry.time_seconds));
  time.title = `${new Date(entry.time_seconds * 1000).toISOString()}, message ${entry.number}`;
  const chain = cell("td", entry.hash === "" ? "" : entry.hash.slice(0, 8), "hash");
  chain.title = entry.digest === "" ? entry.hash : `chain ${entry.hash}\npayload sha-256 ${entry.digest}`;
  const size = cell("td", words.bytes(entry.size), "");
  size.title = `${words.count(entry.size)} bytes`;
  return build("tr", "", [time, cell("td", words.plain(entry.kind), "kind"), cell("td", entry.purpose, "purpose"), cell("td", entry.to, "to"), size, chain]);
}

async function verify() {
  $("verify").disabled = true;
  put($("seal-says"), "Checking every entry…");
  $("seal").dataset.state = "checking";
  verifiedAt = view.sent.messages;
  try {
    verified = await tell("api/sent/verify");
  } catch (error) {
    verified = { good: false, entries: 0, why: error.message, bad: null };
  } finally {
    $("verify").disabled = false;
  }
  showSeal();
}

function showSeal() {
  const { sent } = view;
  if (verified === null) {
    const signed = sent.signed_seconds === null ? "not signed yet" : `last signed at ${words.moment(sent.signed_seconds, view.time_seconds)}`;
    put($("seal-note"), `${words.plural(sent.messages, "message", "messages")}, ${signed}. The record can be checked here, or off this device.`);
    return;
  }
  $("seal").dataset.state = verified.good ? "good" : "bad";
  const more = sent.messages - verifiedAt;
  if (verified.good) {
    put($("seal-says"), `The chain holds: ${words.plural(verified.entries, "entry", "entries")} verified`);
    const since = more > 0 ? ` ${words.plural(more, "message", "messages")} left since.` : "";
    put($("seal-note"), `${words.plural(verified.checkpoints, "signature", "signatures")} by ${short(verified.key)}; head ${verified.head.slice(0, 16)}….${since}`);
  } else {
    put($("seal-says"), "The chain does not hold");
    put($("seal-note"), verified.bad === null ? verified.why : `From entry ${words.count(verified.bad)} on: ${verified.why}`);
  }
}

function short(key) {
  return key.length > 16 ? `${key.slice(0, 8)}…${key.slice(-4)}` : key;
}
