// What a device is and does, in sentences for its owner.

import * as words from "./words.js";

const SHELVES = {
  windows: "Windows of samples",
  notices: "Decisions",
  outbox: "Waiting to be sent",
  models: "Models",
  egress: "Record of what left",
};

const SOURCES = {
  bundle: "came with the application",
  fleet: "came from the fleet",
  site: "was trained on this device",
  owner: "was given by you",
};

const STAGES = {
  refused: "refused",
  shadow: "on trial beside it",
  active: "decides now",
  replaced: "replaced",
  rolled_back: "rolled back",
};

/** The label of who does not decide: its confidence is another label's. */
export const UNDECIDED = "uncertain";

export function headline(view) {
  const { streams, worst } = view;
  if (streams.total === 0) return "Nothing sensed yet";
  if (streams.total === 1 && worst.length === 1) return alone(worst[0]);
  if (streams.alert > 0) return `${words.count(streams.alert)} of ${words.count(streams.total)} ${streams.alert === 1 ? "needs" : "need"} a look`;
  if (streams.fine === streams.total) return `All ${words.count(streams.total)} as usual`;
  if (streams.learning === streams.total) return "Learning what is normal";
  if (streams.quiet === streams.total) return "Nothing is coming in";
  return `${words.count(streams.fine)} of ${words.count(streams.total)} as usual`;
}

function alone(stream) {
  if (stream.state === "quiet") return "Nothing is coming in";
  if (stream.state === "learning") return "Learning what is normal";
  if (stream.label === "") return "Nothing decided yet";
  const label = capital(stream.label);
  const sure = stream.score === null && stream.confidence !== null && stream.label !== UNDECIDED;
  return sure ? `${label}, ${words.percent(stream.confidence, 0)}` : label;
}

export function phase(view) {
  const { load, streams, worst } = view;
  const rate = load.windows_per_second === null ? "" : `, ${rateOf(load.windows_per_second)}`;
  const reason = streams.total === 1 && worst.length === 1 && worst[0].reason ? `${worst[0].reason}. ` : "";
  return `${reason}Sensing for ${words.span(view.up_seconds)}; ${view.model.name} ${view.model.version} decides${rate}.`;
}

function rateOf(rate) {
  if (rate >= 0.95) return `${words.count(Math.round(rate))} ${Math.round(rate) === 1 ? "time" : "times"} a second`;
  return rate > 0 ? `every ${words.span(1 / rate)}` : "but no window comes";
}

export function counted(streams) {
  const parts = [`${words.plural(streams.total, "stream", "streams")}`];
  const told = { alert: "need a look", drift: "have changed", quiet: "are silent", learning: "are learning", fine: "are as usual" };
  const one = { alert: "needs a look", drift: "has changed", quiet: "is silent", learning: "is learning", fine: "is as usual" };
  for (const [state, said] of Object.entries(told)) if (streams[state] > 0) parts.push(`${words.count(streams[state])} ${streams[state] === 1 ? one[state] : said}`);
  return `${parts.join(", ")}.`;
}

export function keptNote(stored) {
  const windows = stored.kept.find((kept) => kept.kind === "windows");
  if (windows === undefined || windows.count === 0) return "no windows yet; nothing goes to a cloud";
  return `${words.plural(windows.count, "window", "windows")}, decisions, models`;
}

export function sharingNote(view) {
  const { sharing } = view;
  if (sharing.fleet === "") return "in no fleet: nothing is shared";
  const reach = sharing.online ? "connected" : "out of reach";
  return `with the fleet ${sharing.fleet}, ${reach}`;
}

export function sharing(view) {
  const { sharing: now, time_seconds: time } = view;
  if (now.fleet === "") {
    return ["This device is in no fleet", "It learns alone. A join file would let it learn together with others; no sample would leave even then."];
  }
  const waiting = now.waiting_messages > 0 ? ` ${words.plural(now.waiting_messages, "message waits", "messages wait")} to be sent (${words.bytes(now.waiting_bytes)}).` : "";
  if (now.paused) {
    const since = now.paused_seconds === null ? "" : `, since ${words.moment(now.paused_seconds, time)}`;
    return [`Paused${since}`, `Nothing goes to the fleet ${now.fleet} but the word that this device takes no part. Sensing, deciding and your own actuators go on.${waiting}`];
  }
  const heard = now.contact_seconds === null ? "" : `, last heard ${words.ago(Math.max(0, time - now.contact_seconds))}`;
  return [`Learning together with the fleet ${now.fleet}`, `${now.online ? "Connected" : "Out of reach"}${heard}. Model updates, summaries and exceptions go there; samples never do.${waiting}`];
}

export function task(view) {
  const { task: now } = view.sharing;
  const doing = { invited: "It was asked to train", training: "It is training", sending: "It is sending its update" }[now.phase] ?? words.plain(now.phase);
  const since = now.since_seconds === null ? "" : `, ${words.ago(Math.max(0, view.time_seconds - now.since_seconds))}`;
  const purpose = now.purpose ? ` ${now.purpose}.` : "";
  return `${doing} for round ${words.count(now.round)}${since}.${purpose}`;
}

export function privacy(budget) {
  if (budget.mechanism === "none" || budget.epsilon === null) {
    return ["None spent", "No noise is added to updates, so no budget is kept, and no bound is promised for what an update may tell. Who wants to send none pauses sharing."];
  }
  const limit = budget.epsilon_max === null ? "" : ` of ${words.figure(budget.epsilon_max)}`;
  const delta = budget.delta === null ? "" : ` at δ = ${budget.delta.toExponential(0)}`;
  return [`ε = ${words.figure(budget.epsilon)}${limit}${delta}`, `Kept by ${words.plain(budget.mechanism)}, over everything this device ever sent.`];
}

export function why(view) {
  const { model } = view;
  const since = model.since_seconds === null ? "" : ` It decides since ${words.moment(model.since_seconds, view.time_seconds)}.`;
  const reason = model.why ? ` ${capital(model.why).replace(/\.?$/, ".")}` : "";
  return `It ${SOURCES[model.source] ?? words.plain(model.source)}.${since}${reason}`;
}

export function modelFacts(model) {
  const pairs = [];
  if (model.provider) pairs.push(["Runs on", [provider(model.provider), model.precision].filter(Boolean).join(", ")]);
  if (model.parameters > 0) pairs.push(["Parameters", words.count(model.parameters)]);
  for (const [name, value] of Object.entries(model.measures)) pairs.push([measured(name), measure(name, value)]);
  if (model.labels.length > 0) pairs.push(["Tells apart", model.labels.join(", ")]);
  if (model.hash) pairs.push(["SHA-256", `${model.hash.slice(0, 16)}…`]);
  return pairs;
}

function provider(name) {
  return name.length <= 4 ? name.toUpperCase() : name;
}

function measured(name) {
  return name === "auroc" ? "Area under ROC" : capital(words.plain(name));
}

export function measures(values) {
  return Object.entries(values).map(([name, value]) => `${words.plain(name)} ${measure(name, value)}`).join(", ");
}

function measure(name, value) {
  if (value === null) return "–";
  if (name.endsWith("seconds")) return words.prefixed(value, "s");
  if (name.endsWith("bytes")) return words.bytes(value);
  const share = value >= 0 && value <= 1 && /accuracy|agreement|share|precision|recall|auroc/.test(name);
  return share ? words.percent(value) : words.figure(value);
}

export function stage(entry) {
  const source = { bundle: "of the application", fleet: "of the fleet", site: "trained here", owner: "given by you" }[entry.source];
  return [STAGES[entry.stage] ?? words.plain(entry.stage), source].filter(Boolean).join(", ");
}

export function shelfName(kept) {
  return SHELVES[kept.kind] ?? capital(words.plain(kept.kind));
}

export function shelfSize(kept) {
  const limit = kept.bytes_max === null ? "" : ` of at most ${words.bytes(kept.bytes_max)}`;
  return `${words.count(kept.count)} · ${words.bytes(kept.bytes)}${limit}`;
}

export function shelfSpan(kept, now) {
  if (kept.count === 0 || kept.oldest_seconds === null) return "";
  return `from ${words.moment(kept.oldest_seconds, now)}${kept.newest_seconds === null ? "" : ` to ${words.moment(kept.newest_seconds, now)}`}`;
}

export function storedFacts(stored) {
  const pairs = [];
  const labels = Object.entries(stored.labelled);
  if (labels.length > 0) pairs.push(["Windows by label", labels.map(([label, count]) => `${label || "none"} ${words.count(count)}`).join(", ")]);
  const drops = Object.entries(stored.drops).filter(([, count]) => count > 0);
  pairs.push(["Let go to keep within the caps", drops.length === 0 ? "nothing" : drops.map(([reason, count]) => `${words.plain(reason)} ${words.count(count)}`).join(", ")]);
  if (stored.disk_free_bytes !== null) pairs.push(["Free on the disk", words.bytes(stored.disk_free_bytes)]);
  return pairs;
}

export function energyFigure(energy) {
  if (energy === null) return "–";
  if (energy.joules_per_inference !== null) return words.prefixed(energy.joules_per_inference, "J");
  return words.prefixed(energy.joules, "J");
}

export function energyNote(energy) {
  if (energy === null) return "not measured on this machine";
  const what = energy.joules_per_inference === null ? "since the start" : "a decision";
  const watts = energy.watts === null ? "" : `, ${words.prefixed(energy.watts, "W")} now`;
  const how = energy.estimated ? "estimated from processor time" : `measured by ${words.plain(energy.source)}`;
  return `${what}${watts}; ${how}`;
}

export function deviceFacts(view) {
  const { load, energy } = view;
  const pairs = [["Running for", words.span(view.up_seconds)]];
  if (load.cpu_share !== null) pairs.push(["Processor", `${words.percent(load.cpu_share, 0)} of one core`]);
  if (load.resident_bytes > 0) pairs.push(["Memory", words.bytes(load.resident_bytes)]);
  pairs.push(["Decided on", words.plural(load.windows, "window", "windows")]);
  const lost = Object.entries(load.dropped).filter(([, count]) => count > 0);
  pairs.push(["Lost before a decision", lost.length === 0 ? "nothing" : lost.map(([reason, count]) => `${words.plain(reason)} ${words.count(count)}`).join(", ")]);
  if (energy !== null) {
    pairs.push(["Energy since the start", words.prefixed(energy.joules, "J")]);
    if (energy.joules_per_round !== null) pairs.push(["Energy of a round", words.prefixed(energy.joules_per_round, "J")]);
  }
  return pairs;
}

export function thingCount(entry) {
  const what = entry.role === "sensor" ? ["block", "blocks"] : ["message", "messages"];
  const failed = entry.failures > 0 ? `, failed ${words.plural(entry.failures, "time", "times")}` : "";
  return `${words.plural(entry.count, ...what)}${failed}`;
}

function capital(text) {
  return text === "" ? "" : text[0].toUpperCase() + text.slice(1);
}
