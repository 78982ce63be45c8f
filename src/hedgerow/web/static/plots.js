// Every drawing of the console: the hedge, the sparks, the histories, the signal and the days.

import { element, text } from "./dom.js";
import * as words from "./words.js";

const LEAF_MAX = 34;
const LEAF_MIN = 6.2;
const HEIGHT = 216;
const EDGE = { top: 14, right: 10, bottom: 46, left: 40 };
const RIBBON = 12;
const SIGNALS_MAX = 6;
const HUES = 6;

/** One leaf a stream, in order of name; hips are what needs a look. Gives where each one lies. */
export function drawHedge(canvas, states) {
  const width = canvas.clientWidth;
  if (width === 0 || states.length === 0) return null;
  const size = leafSize(width, states.length);
  const columns = Math.max(1, Math.floor((width - size * 0.5) / size));
  const rows = Math.ceil(states.length / columns);
  const step = size * 0.86;
  const height = Math.ceil(rows * step + size * 0.6);
  const scale = globalThis.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.clearRect(0, 0, width, height);
  const colour = colours(canvas, ["leaf", "leaf-young", "hip", "ochre", "bramble", "rule", "soft"]);
  const hips = [];
  for (let at = 0; at < states.length; at += 1) {
    const row = Math.floor(at / columns);
    const x = size * (0.5 + (at % columns) + (row % 2) * 0.5);
    const y = size * 0.55 + row * step;
    if (states[at] === "a") hips.push([x, y]);
    else drawLeaf(pen, x, y, size, at, states[at], colour);
  }
  pen.fillStyle = colour.hip;
  const radius = Math.max(3.2, size * 0.4);
  for (const [x, y] of hips) {
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    pen.fill();
  }
  return (x, y) => {
    const row = Math.max(0, Math.round((y - size * 0.55) / step));
    const column = Math.round(x / size - 0.5 - (row % 2) * 0.5);
    const at = row * columns + column;
    return column >= 0 && column < columns && at < states.length ? at : null;
  };
}

function leafSize(width, count) {
  const high = Math.min(190, 40 + width * 0.12);
  return Math.max(LEAF_MIN, Math.min(LEAF_MAX, Math.sqrt((width * high) / (0.86 * count))));
}

function drawLeaf(pen, x, y, size, at, state, colour) {
  // No two leaves are quite alike, and the same stream always has the same leaf.
  const lean = Math.sin(at * 2.4) * 0.5 - 0.75;
  const long = size * (0.94 + 0.1 * Math.sin(at * 1.7));
  const broad = long * 0.34;
  pen.save();
  pen.translate(x, y);
  pen.rotate(lean);
  pen.beginPath();
  pen.moveTo(-long / 2, 0);
  pen.bezierCurveTo(-long * 0.2, -broad, long * 0.2, -broad, long / 2, 0);
  pen.bezierCurveTo(long * 0.2, broad, -long * 0.2, broad, -long / 2, 0);
  if (state === "l" || state === "q") {
    pen.strokeStyle = state === "l" ? colour.bramble : colour.soft;
    pen.lineWidth = Math.max(0.8, size * 0.05);
    pen.stroke();
  } else {
    pen.fillStyle = state === "d" ? colour.ochre : at % 3 === 1 ? colour["leaf-young"] : colour.leaf;
    pen.fill();
  }
  pen.restore();
}

function colours(node, names) {
  const style = getComputedStyle(node);
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`)]));
}

/** The last minutes of one stream in a few strokes. */
export function spark(svg, stream) {
  const [width, height] = [svg.clientWidth || 120, 30];
  const values = stream.recent;
  const scored = stream.score !== null;
  const top = scored ? Math.max(1.4, ...values.filter((value) => value !== null)) : 1;
  const x = (at) => 2 + ((width - 6) * at) / Math.max(1, values.length - 1);
  const y = (value) => height - 3 - ((height - 6) * Math.min(value, top)) / top;
  const parts = [];
  if (scored) parts.push(element("path", { class: "limit", d: `M0 ${y(1).toFixed(1)}H${width}` }));
  parts.push(element("path", { class: "line", d: pathOf(values, x, y) }));
  const last = values.findLastIndex((value) => value !== null);
  if (last >= 0) {
    parts.push(element("circle", { class: "tip", r: 2.4, cx: x(last).toFixed(1), cy: y(values[last]).toFixed(1) }));
  }
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(...parts);
}

/**
 * A stream's history with its labels beneath. `period` is what is marked; `marked(start, end)` is
 * called when somebody drags over the plot.
 */
export function drawHistory(box, history, period, marked) {
  const width = box.clientWidth;
  if (width === 0) return;
  const scored = history.scores.some((value) => value !== null);
  const values = scored ? history.scores : history.confidences;
  const top = scored ? Math.max(1.5, ...values.filter((value) => value !== null)) * 1.06 : 1;
  const steps = values.length;
  const end = history.end_seconds;
  const start = end - steps * history.step_seconds;
  const inner = { w: width - EDGE.left - EDGE.right, h: HEIGHT - EDGE.top - EDGE.bottom };
  const x = (seconds) => EDGE.left + (inner.w * (seconds - start)) / (end - start);
  const xAt = (at) => x(start + (at + 0.5) * history.step_seconds);
  const y = (value) => EDGE.top + inner.h * (1 - Math.min(value, top) / top);
  const parts = [...verticalAxis(scored, top, y, width), ...timeAxis(start, end, x)];
  const line = pathOf(values, xAt, y);
  if (scored) parts.push(...scoredLine(line, y(1), width));
  else parts.push(element("path", { class: "line", d: line }));
  parts.push(...ribbon(history, x, start));
  const band = element("rect", { class: "band", y: EDGE.top, height: inner.h, width: 0, x: 0 });
  parts.push(band);
  showBand(band, period, x, start, end);
  const svg = element("svg", {
    viewBox: `0 0 ${width} ${HEIGHT}`,
    height: HEIGHT,
    role: "img",
    "aria-label": spoken(scored, values),
  });
  svg.append(...parts);
  letMark(svg, band, { x, start, end, width, step: history.step_seconds }, marked);
  box.replaceChildren(svg);
}

function spoken(scored, values) {
  const known = values.filter((value) => value !== null);
  if (known.length === 0) return "Nothing came in this time.";
  const what = scored ? "Distance from normal" : "Confidence";
  const high = words.figure(Math.max(...known));
  return `${what}: ${words.figure(known.at(-1))} now, between ${words.figure(Math.min(...known))} and ${high}.`;
}

function verticalAxis(scored, top, y, width) {
  const parts = [];
  const marks = scored ? niceMarks(top) : [0, 0.5, 1];
  for (const mark of marks) {
    const at = y(mark).toFixed(1);
    parts.push(element("path", { class: "grid", d: `M${EDGE.left} ${at}H${width - EDGE.right}` }));
    parts.push(text(EDGE.left - 8, y(mark) + 4, scored ? String(mark) : words.percent(mark, 0), "axis end"));
  }
  return parts;
}

function niceMarks(top) {
  const every = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((step) => top / step <= 4.5) ?? top / 4;
  const marks = [];
  for (let mark = 0; mark <= top; mark += every) marks.push(Number(mark.toPrecision(3)));
  return marks;
}

function timeAxis(start, end, x) {
  const parts = [];
  const every = [60, 120, 300, 900, 3600, 10800, 21600].find((step) => (x(start + step) - x(start)) >= 54) ?? 21600;
  // Marks lie on the reader's own round hours.
  const shift = new Date(end * 1000).getTimezoneOffset() * 60;
  for (let at = Math.ceil((start - shift) / every) * every + shift; at <= end; at += every) {
    if (x(at) < EDGE.left + 14 || x(at) > x(end) - 12) continue;
    const date = new Date(at * 1000);
    const told = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
    parts.push(text(x(at), HEIGHT - 6, told, "axis middle"));
  }
  return parts;
}

function scoredLine(line, limit, width) {
  const above = element("clipPath", { id: "above" }, [
    element("rect", { x: 0, y: 0, width, height: Math.max(0, limit) }),
  ]);
  return [
    element("defs", {}, [above]),
    element("path", { class: "limit", d: `M${EDGE.left} ${limit.toFixed(1)}H${width - EDGE.right}` }),
    text(width - EDGE.right, limit - 5, "threshold", "limit-name end"),
    element("path", { class: "line", d: line }),
    element("path", { class: "line over", d: line, "clip-path": "url(#above)" }),
  ];
}

/** Which label held when: one strip a run of the same label. */
function ribbon(history, x, start) {
  const parts = [];
  const usual = pauseOf(history.label_numbers);
  const numbers = bridged(history.label_numbers, usual);
  const top = HEIGHT - EDGE.bottom + 9;
  for (let at = 0; at < numbers.length; ) {
    let next = at + 1;
    while (next < numbers.length && numbers[next] === numbers[at]) next += 1;
    const label = numbers[at] === null ? "" : (history.labels[numbers[at]] ?? "other");
    if (label !== "") {
      const [from, to] = [at, next].map((step) => x(start + step * history.step_seconds));
      const strip = element("rect", {
        class: `strip hue${hue(label, history.labels)}`,
        x: from.toFixed(1), y: top, width: Math.max(1, to - from - 0.6).toFixed(1), height: RIBBON, rx: 2,
      });
      const title = element("title", {});
      title.textContent = label;
      strip.append(title);
      parts.push(strip);
      if (to - from > 7.2 * label.length + 10) parts.push(text((from + to) / 2, top + 10, label, "strip-name middle"));
    }
    at = next;
  }
  return parts;
}

/** With what is missing between two windows filled by the first of them. */
function bridged(numbers, usual) {
  const filled = [...numbers];
  let last = -1;
  numbers.forEach((number, at) => {
    if (number === null) return;
    if (last >= 0 && at - last <= usual) filled.fill(numbers[last], last + 1, at);
    last = at;
  });
  return filled;
}

/** A label has the same colour wherever it is drawn beside the same others; the usual is green. */
export function hue(label, labels) {
  const usual = (name) => /^(normal|fine|ok|usual)$/i.test(name);
  if (usual(label)) return 0;
  const place = labels.indexOf(label);
  if (place < 0) return HUES - 1;
  return labels.some(usual) ? 1 + (place % (HUES - 1)) : place % HUES;
}

function showBand(band, period, x, start, end) {
  const [from, to] = period === null ? [0, 0] : [Math.max(period[0], start), Math.min(period[1], end)];
  band.setAttribute("x", x(from).toFixed(1));
  band.setAttribute("width", Math.max(0, x(to) - x(from)).toFixed(1));
}

function letMark(svg, band, { x, start, end, width, step }, marked) {
  const secondsAt = (event) => {
    const box = svg.getBoundingClientRect();
    const inside = ((event.clientX - box.left) * width) / box.width;
    const share = (inside - EDGE.left) / (width - EDGE.left - EDGE.right);
    const raw = start + Math.max(0, Math.min(1, share)) * (end - start);
    return Math.round(raw / step) * step;
  };
  let from = null;
  svg.addEventListener("pointerdown", (event) => {
    from = secondsAt(event);
    svg.setPointerCapture(event.pointerId);
    svg.dataset.marking = "yes";
  });
  svg.addEventListener("pointermove", (event) => {
    if (from === null) return;
    const to = secondsAt(event);
    showBand(band, [Math.min(from, to), Math.max(from, to)], x, start, end);
  });
  const over = (event) => {
    if (from === null) return;
    const to = secondsAt(event);
    const period = [Math.min(from, to), Math.max(from, to)];
    from = null;
    delete svg.dataset.marking;
    if (event.type === "pointerup" && period[1] > period[0]) marked(...period);
  };
  svg.addEventListener("pointerup", over);
  svg.addEventListener("pointercancel", over);
}

/** The newest samples, one line a channel. */
export function drawSignal(box, signal) {
  const width = box.clientWidth;
  if (width === 0) return;
  const shown = signal.samples.slice(0, SIGNALS_MAX);
  const band = shown.length > 2 ? 50 : 80;
  const height = band * shown.length + 4;
  const parts = [];
  shown.forEach((samples, channel) => {
    const low = Math.min(...samples);
    const high = Math.max(...samples);
    const middle = band * (channel + 0.5) + 7;
    const y = (value) => middle + (band - 20) * (high > low ? 0.5 - (value - low) / (high - low) : 0);
    const x = (at) => ((width - 2) * at) / Math.max(1, samples.length - 1) + 1;
    parts.push(element("path", { class: `line hue${channel % HUES}`, d: pathOf(samples, x, y) }));
    const name = signal.channels[channel] ?? `channel ${channel + 1}`;
    parts.push(text(2, band * channel + 11, name, "channel"));
  });
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img" });
  svg.setAttribute("aria-label", `The newest samples of ${words.plural(signal.samples.length, "channel", "channels")}`);
  svg.append(...parts);
  box.replaceChildren(svg);
}

/** Bytes a day, one piece of the bar a class. `order` gives each class its colour. */
export function drawDays(box, days, order) {
  const width = box.clientWidth;
  if (width === 0 || days.length === 0) return;
  const height = 190;
  const totals = days.map((day) => Object.values(day.bytes).reduce((sum, size) => sum + size, 0));
  const top = Math.max(1, ...totals);
  const left = 56;
  const room = (width - left - 4) / Math.max(days.length, 14);
  const y = (size) => 10 + (height - 40) * (1 - size / top);
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    const at = y(top * share);
    parts.push(element("path", { class: "grid", d: `M${left} ${at.toFixed(1)}H${width}` }));
    parts.push(text(left - 8, at + 4, words.bytes(top * share), "axis end"));
  }
  days.forEach((day, place) => {
    let below = 0;
    const x = left + 4 + room * place;
    order.forEach((kind, number) => {
      const size = day.bytes[kind] ?? 0;
      if (size === 0) return;
      const [from, to] = [y(below), y(below + size)];
      below += size;
      const piece = element("rect", {
        class: `strip hue${number % HUES}`,
        x: x.toFixed(1), y: to.toFixed(1),
        width: Math.max(1, room - 3).toFixed(1), height: Math.max(0.6, from - to).toFixed(1),
      });
      const title = element("title", {});
      title.textContent = `${day.day}: ${words.bytes(size)} of ${words.plain(kind)}`;
      piece.append(title);
      parts.push(piece);
    });
    const every = Math.max(1, Math.ceil(58 / room));
    if ((days.length - 1 - place) % every === 0) {
      const date = new Date(`${day.day}T12:00:00Z`);
      const told = date.toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
      const last = place === days.length - 1 && x + room / 2 > width - 24;
      parts.push(text(last ? width : x + room / 2, height - 8, told, last ? "axis end" : "axis middle"));
    }
  });
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img" });
  svg.setAttribute("aria-label", `Bytes that left on each of ${words.plural(days.length, "day", "days")}; ${words.bytes(totals.at(-1))} today`);
  svg.append(...parts);
  box.replaceChildren(svg);
}

/** A line through what is known, broken where nothing came for longer than is usual. */
function pathOf(values, x, y) {
  const usual = pauseOf(values);
  let path = "";
  let last = -Infinity;
  values.forEach((value, at) => {
    if (value === null) return;
    const point = `${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    // A lone point is a dot, not nothing.
    path += at - last > usual ? `M${point}h.01` : `L${point}`;
    last = at;
  });
  return path;
}

/** The most steps between two windows that count as no gap: where windows are rarer than steps. */
function pauseOf(values) {
  const known = values.flatMap((value, at) => (value === null ? [] : [at]));
  const pauses = known.slice(1).map((at, place) => at - known[place]).sort((a, b) => a - b);
  return 2 * (pauses[pauses.length >> 1] ?? 1);
}
