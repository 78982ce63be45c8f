// The two drawings: the vine that grows a leaf a round, and accuracy by round. Plain SVG.

import { element, text } from "./dom.js";
import { percent } from "./words.js";

const LEAVES_MAX = 60;
const LEAF = "M0 0C.22-.3.62-.36 1 0C.62.36.22.3 0 0Z";
const MARGIN = { top: 14, right: 110, bottom: 30, left: 48 };
const CHART_HEIGHT = 288;

export function drawVine(svg, view, label) {
  const { clientWidth: width, clientHeight: height } = svg;
  if (width === 0) return;
  const planned = Math.max(view.rounds_planned, view.round, view.rounds_done, 1);
  const leaves = Math.min(planned, LEAVES_MAX, Math.floor(width / 9));
  const grown = (view.rounds_done * leaves) / planned;
  const over = view.finished || view.phase === "done";
  const ripe = over && view.rounds_done >= planned;
  const gap = (width - 52) / leaves;
  const size = Math.max(8, Math.min(40, 6 + gap * 0.7));
  const xOf = (leaf) => 4 + gap * (leaf + 0.5);
  const yOf = (x) => height / 2 + (height / 17) * Math.sin((x / width) * Math.PI * 5);

  const tip = ripe ? width - 34 : (grown > 0 ? xOf(grown - 0.7) : 0);
  const parts = [
    element("path", { class: "stem ahead", d: wave(0, width - 34, yOf) }),
    element("path", { class: "stem", d: wave(0, tip, yOf) }),
  ];
  for (let leaf = 0; leaf < leaves; leaf += 1) {
    const x = xOf(leaf);
    const at = `translate(${x.toFixed(1)} ${yOf(x).toFixed(1)})`;
    // No two leaves are quite alike, and the same round always has the same leaf.
    const lean = 9 * Math.sin(leaf * 2.4);
    const side = leaf % 2 === 0 ? -1 : 1;
    if (leaf + 1 <= grown + 1e-9) {
      parts.push(...leafAt(at, -side * (62 + lean), size * 0.66, "leaf young"));
      parts.push(...leafAt(at, side * (46 - lean), size, "leaf"));
    } else if (leaf <= grown + 1e-9 && view.round > view.rounds_done && !over) {
      parts.push(...leafAt(at, side * 46, size * 0.6, "bud"));
    } else {
      parts.push(element("circle", { class: "node", r: 2, transform: at }));
    }
  }
  if (ripe) parts.push(...hips(width - 34, yOf(width - 34)));
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-label", label);
  svg.replaceChildren(...parts);
}

function leafAt(at, degrees, size, kind) {
  const transform = `${at} rotate(${degrees.toFixed(1)}) scale(${size.toFixed(1)})`;
  const leaf = element("path", { class: kind, d: LEAF, transform });
  return kind === "bud" ? [leaf] : [leaf, element("path", { class: "rib", d: "M.12 0H.8", transform })];
}

function hips(x, y) {
  const parts = [];
  for (const [dx, dy, r] of [[14, -19, 7], [25, -2, 6.5], [13, 15, 6]]) {
    parts.push(element("path", { class: "stalk", d: `M${x} ${y}Q${x + dx * 0.7} ${y} ${x + dx} ${y + dy}` }));
    parts.push(element("circle", { class: "hip", cx: x + dx, cy: y + dy, r }));
  }
  return parts;
}

export function drawChart(box, view) {
  const points = view.rounds.filter((round) => round.accuracy_mean !== null);
  if (points.length === 0) {
    const note = document.createElement("p");
    note.className = "empty";
    note.textContent = "Accuracy is first measured when a round has finished.";
    box.replaceChildren(note);
    return;
  }
  const width = box.clientWidth;
  if (width === 0) return;
  const worstOf = (round) => round.accuracy_worst ?? round.accuracy_mean;
  const floor = Math.max(0, Math.floor(Math.min(...points.map(worstOf)) * 10 - 0.2) / 10);
  const last = points.at(-1);
  const first = points[0].round;
  // Room for what is planned, but never so much that what is there shrinks to a corner.
  const ahead = Math.min(view.rounds_planned, Math.max(20, 4 * last.round));
  const end = Math.max(ahead, last.round, first + 1);
  const start = Math.min(1, first);
  const inner = { w: width - MARGIN.left - MARGIN.right, h: CHART_HEIGHT - MARGIN.top - MARGIN.bottom };
  const x = (round) => MARGIN.left + (inner.w * (round - start)) / (end - start);
  const y = (share) => MARGIN.top + inner.h * (1 - (share - floor) / (1 - floor));
  const line = (of) => points.map((p) => `${x(p.round).toFixed(1)} ${y(of(p)).toFixed(1)}`);
  const mean = line((p) => p.accuracy_mean);
  const worst = line(worstOf);

  const parts = [...axes({ x, y, floor, start, end, width })];
  parts.push(element("path", { class: "between", d: `M${[...mean, ...[...worst].reverse()].join("L")}Z` }));
  parts.push(element("path", { class: "line worst", d: `M${worst.join("L")}` }));
  parts.push(element("path", { class: "line mean", d: `M${mean.join("L")}` }));
  for (const p of points) {
    const told = `Round ${p.round}: mean ${percent(p.accuracy_mean)}, worst ${percent(p.accuracy_worst)}`;
    parts.push(dot(x(p.round), y(worstOf(p)), "worst", told, points.length));
    parts.push(dot(x(p.round), y(p.accuracy_mean), "mean", told, points.length));
  }
  const labels = [y(last.accuracy_mean), y(worstOf(last))];
  if (labels[1] - labels[0] < 20) labels[1] = labels[0] + 20;
  const at = x(last.round) + 11;
  parts.push(text(at, labels[0] + 5, `mean ${percent(last.accuracy_mean)}`, "tag mean"));
  parts.push(text(at, labels[1] + 5, `worst ${percent(last.accuracy_worst)}`, "tag worst"));

  const svg = element("svg", {
    viewBox: `0 0 ${width} ${CHART_HEIGHT}`,
    height: CHART_HEIGHT,
    role: "img",
    "aria-label":
      `Accuracy from round ${first} to ${last.round}. Mean ${percent(points[0].accuracy_mean)} ` +
      `to ${percent(last.accuracy_mean)}, worst ${percent(points[0].accuracy_worst)} ` +
      `to ${percent(last.accuracy_worst)}.`,
  });
  svg.append(...parts);
  box.replaceChildren(svg);
}

function axes({ x, y, floor, start, end, width }) {
  const parts = [];
  const step = 1 - floor > 0.55 ? 0.2 : 0.1;
  for (let share = 1; share >= floor - 1e-9; share -= step) {
    const at = y(share);
    parts.push(element("path", { class: "grid", d: `M${MARGIN.left} ${at}H${width - MARGIN.right}` }));
    parts.push(text(MARGIN.left - 9, at + 4, percent(share, 0), "axis end"));
  }
  const every = niceStep(((end - start) * 70) / width);
  for (let round = start; round <= end; round = (Math.floor(round / every) + 1) * every) {
    if (round !== start && round - start < every * 0.7) continue;
    parts.push(text(x(round), CHART_HEIGHT - 7, String(round), "axis middle"));
  }
  return parts;
}

/** The least of 1, 2, 5, 10, 20, 50, … that is at least `rough`. */
function niceStep(rough) {
  const power = 10 ** Math.max(0, Math.floor(Math.log10(rough)));
  return [1, 2, 5, 10].map((n) => n * power).find((step) => step >= rough);
}

function dot(x, y, kind, told, count) {
  const circle = element("circle", { class: `dot ${kind}`, cx: x, cy: y, r: count > 40 ? 1.5 : 3.2 });
  const title = element("title", {});
  title.textContent = told;
  circle.append(title);
  return circle;
}

function wave(from, to, rise) {
  const steps = Math.max(2, Math.ceil((to - from) / 12));
  const points = [];
  for (let step = 0; step <= steps; step += 1) {
    const x = from + ((to - from) * step) / steps;
    points.push(`${x.toFixed(1)} ${rise(x).toFixed(1)}`);
  }
  return `M${points.join("L")}`;
}
