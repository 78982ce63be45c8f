// Numbers and codes in words that a lay reader understands.

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

const PHASES = {
  away: "away",
  present: "present",
  invited: "invited",
  training: "training",
  counted: "counted",
  declined: "declined",
  refused: "refused",
};

const OUTCOMES = {
  counted: "counted in the sum",
  late: "came after their round had closed",
  duplicate: "arrived twice and were counted once",
  stale: "started from an older model",
  uninvited: "came from a device that was not asked",
  unknown_round: "were for a round that never was",
  unknown_version: "spoke another version of the protocol",
  malformed: "refused: not a readable message",
  oversized: "refused: too large",
  wrong_shape: "refused: not the shape of the model",
  not_finite: "refused: held a value that is no number",
  no_samples: "refused: learned from no samples",
  forged: "refused: not signed by the device it named",
};

export function bytes(count) {
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : 1;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

export function percent(share, digits = 1) {
  return share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)}%`;
}

export function seconds(count) {
  if (count < 9.95) return `${count.toFixed(count < 0.995 ? 2 : 1)} s`;
  if (count < 120) return `${Math.round(count)} s`;
  return `${Math.floor(count / 60)} min ${Math.round(count % 60)} s`;
}

/** A whole number with its thousands marked. */
export function count(number) {
  return number.toLocaleString("en");
}

/** Two figures behind the point where they say something. */
export function figure(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) >= 100 ? count(Math.round(value)) : value.toFixed(Math.abs(value) >= 10 ? 1 : 2);
}

/** A span of time as people say it, to about two figures. */
export function span(seconds) {
  const units = [["day", 86400], ["hour", 3600], ["minute", 60]];
  for (const [name, size] of units) {
    if (seconds >= 2 * size) return plural(Math.floor(seconds / size), name, `${name}s`);
  }
  return plural(Math.max(0, Math.round(seconds)), "second", "seconds");
}

export function ago(seconds) {
  return seconds < 2.5 ? "now" : `${span(seconds)} ago`;
}

/** A moment: the time alone when it is of today. */
export function moment(seconds, today) {
  const date = new Date(seconds * 1000);
  const time = date.toLocaleTimeString("en-GB");
  const same = new Date(today * 1000).toDateString() === date.toDateString();
  const year = new Date(today * 1000).getFullYear() === date.getFullYear() ? undefined : "numeric";
  if (same) return time;
  return `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short", year })}, ${time.slice(0, 5)}`;
}

/** A value with a unit prefix: 0.00042 J is 420 µJ. */
export function prefixed(value, unit) {
  if (value === 0) return `0 ${unit}`;
  for (const [prefix, size] of [["M", 1e6], ["k", 1e3], ["", 1], ["m", 1e-3], ["µ", 1e-6], ["n", 1e-9]]) {
    if (Math.abs(value) >= size || prefix === "n") {
      const scaled = value / size;
      return `${scaled.toFixed(scaled >= 99.5 ? 0 : scaled >= 9.95 ? 1 : 2)} ${prefix}${unit}`;
    }
  }
  return `0 ${unit}`;
}

export function plural(number, one, many) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

export function plain(code) {
  return code.replaceAll("_", " ");
}

export function phaseOf(device) {
  return Object.hasOwn(PHASES, device.phase) ? PHASES[device.phase] : plain(device.phase);
}

export function outcome(code) {
  return Object.hasOwn(OUTCOMES, code) ? OUTCOMES[code] : `refused: ${plain(code)}`;
}

export function headline(view) {
  const planned = view.rounds_planned > 0 ? ` of ${view.rounds_planned}` : "";
  if (view.finished || view.phase === "done") {
    return planned
      ? `${view.rounds_done}${planned} rounds done`
      : `${plural(view.rounds_done, "round", "rounds")} done`;
  }
  return view.round > 0 ? `Round ${view.round}${planned}` : "Not started yet";
}

export function state(view) {
  const here = view.devices.filter((device) => device.online).length;
  const all = plural(view.devices.length, "device", "devices");
  const counted = view.devices.filter((device) => device.phase === "counted").length;
  const training = view.devices.filter((device) => device.phase === "training").length;
  if (view.finished || view.phase === "done") return `The fleet has finished; ${here} of ${all} here.`;
  switch (view.phase) {
    case "open":
      return `Training: ${training} at work, ${counted} counted.`;
    case "aggregating":
      return "Aggregating: adding up the updates.";
    case "resting":
      return "Resting: the new model is on its way to every device.";
    case "idle":
      return here < view.devices_wanted
        ? `Waiting for devices: ${here} of the ${view.devices_wanted} a round needs.`
        : `Waiting to start; ${here} of ${all} here.`;
    case "replaying":
      return "Restarted: picking up where it left off.";
    default:
      return `${plain(view.phase)}.`;
  }
}
