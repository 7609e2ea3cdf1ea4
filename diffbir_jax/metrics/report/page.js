"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const metrics = data.metrics.filter((metric) => !metric.set);
const state = { sort: metrics.length ? metrics[0].name : "name", down: false, image: 0, left: null, right: null };

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "rect", "circle", "line", "text", "title"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function shown(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value === "inf" ? "∞" : value;
  const size = Math.abs(value);
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : 4);
}

const number = (value) => (value === "inf" ? Infinity : value === "-inf" ? -Infinity : value);
const better = (metric) => (metric.higher ? "higher is better" : "lower is better");

/* The distribution: a histogram, one dot an image, the mean and its interval. */
function plot(metric) {
  const points = data.rows.map((row) => [row.name, number(row.values[metric.name])]).filter(([, v]) => Number.isFinite(v));
  if (points.length < 3) return "";
  const values = points.map(([, v]) => v);
  const low = Math.min(...values), high = Math.max(...values), span = high - low || 1, x = (v) => 6 + (228 * (v - low)) / span;
  const bins = Math.min(24, Math.max(5, Math.ceil(1.5 * Math.sqrt(values.length)))), counts = Array(bins).fill(0);
  for (const v of values) counts[Math.min(bins - 1, Math.floor((bins * (v - low)) / span))]++;
  const most = Math.max(...counts), svg = make("svg", { viewBox: "0 0 240 74", "aria-hidden": "true" });
  counts.forEach((count, i) => {
    const height = (38 * count) / most;
    svg.append(make("rect", { class: "bar", x: 6 + (228 * i) / bins, y: 40 - height, width: 228 / bins - 1, height, rx: 1 }));
  });
  const [from, to] = metric.summary.ci95 || [metric.summary.mean, metric.summary.mean];
  svg.append(make("rect", { class: "band", x: x(from), y: 0, width: Math.max(1, x(to) - x(from)), height: 56 }));
  svg.append(make("line", { class: "mid", x1: x(metric.summary.mean), x2: x(metric.summary.mean), y1: 0, y2: 56 }));
  points.forEach(([name, v], i) => {
    svg.append(make("circle", { class: "dot", cx: x(v), cy: 46 + ((i * 7) % 9), r: 2.2 }, make("title", {}, `${name}: ${shown(v)}`)));
  });
  svg.append(make("text", { x: 6, y: 72 }, shown(low)), make("text", { x: 234, y: 72, "text-anchor": "end" }, shown(high)));
  return svg;
}

function cards() {
  const box = document.getElementById("cards"), sets = document.getElementById("sets");
  for (const metric of data.metrics) {
    const { summary } = metric, head = make("div", { class: "name" }, metric.title, make("small", {}, better(metric)));
    if (metric.set) {
      const card = make("div", { class: "card", "data-metric": metric.name }, head, make("div", { class: "mean" }, shown(summary.value)));
      card.append(make("div", { class: "range" }, `${summary.images} images against ${summary.images}, ${summary.features} features`));
      if (summary.warning) card.append(make("div", { class: "warn" }, summary.warning));
      card.append(make("div", { class: "what" }, metric.about));
      sets.append(card);
      continue;
    }
    const range = summary.ci95 ? `95%: ${shown(summary.ci95[0])} to ${shown(summary.ci95[1])}` : "fewer than two values: no interval";
    const parts = [`median ${shown(summary.median)}`, `${summary.images} images`];
    if (summary.not_measured) parts.push(`${summary.not_measured} not measured`);
    if (summary.infinite_left_out) parts.push(`${summary.infinite_left_out} infinite left out`);
    const card = make("button", { class: "card", type: "button", "data-metric": metric.name, onclick: () => sortBy(metric.name) }, head);
    card.append(make("div", { class: "mean" }, shown(summary.mean)), make("div", { class: "range" }, range));
    card.append(make("div", { class: "range" }, parts.join(" · ")), plot(metric), make("div", { class: "what" }, metric.about));
    box.append(card);
  }
}

/* Rows best first, or worst first; those without a value last. */
function order() {
  const metric = metrics.find((each) => each.name === state.sort), sign = (state.down ? -1 : 1) * (metric && metric.higher ? -1 : 1);
  const key = (i) => (metric ? number(data.rows[i].values[metric.name]) : data.rows[i].name);
  return data.rows.map((_, i) => i).sort((a, b) => {
    const [x, y] = [key(a), key(b)], missing = (x === null) - (y === null);
    return missing || (x < y ? -sign : x > y ? sign : a - b);
  });
}

function sortBy(name) {
  state.down = state.sort === name ? !state.down : false;
  state.sort = name;
  table();
  remember();
}

function tint(metric, value) {
  const { min, max } = metric.summary, v = number(value);
  if (v === null || min === undefined || max === min) return "";
  const share = Math.min(1, Math.max(0, (v - min) / (max - min)));
  return `background: rgba(var(--good), ${(0.26 * (metric.higher ? share : 1 - share)).toFixed(3)})`;
}

function table() {
  const head = make("tr"), body = document.createDocumentFragment();
  for (const column of [{ name: "name", title: "Image", higher: false }, ...metrics]) {
    const chosen = column.name === state.sort, up = chosen && Boolean(column.higher) === state.down;
    const arrow = chosen ? (up ? " ▲" : " ▼") : "";
    const button = make("button", { type: "button", onclick: () => sortBy(column.name) }, column.title + arrow);
    head.append(make("th", { scope: "col", "aria-sort": chosen ? (up ? "ascending" : "descending") : "none" }, button));
  }
  for (const i of order()) {
    const row = data.rows[i];
    const name = make("button", { type: "button", title: row.name, onclick: () => show(i, true) }, row.name);
    const line = make("tr", { "data-image": row.name, "aria-current": String(i === state.image) }, make("td", {}, name));
    for (const metric of metrics) {
      const value = row.values[metric.name];
      line.append(make("td", { style: tint(metric, value) }, shown(value)));
    }
    body.append(line);
  }
  document.querySelector("#table thead").replaceChildren(head);
  document.querySelector("#table tbody").replaceChildren(body);
  for (const card of document.querySelectorAll("button.card")) card.setAttribute("aria-pressed", String(card.dataset.metric === state.sort));
}

function picker(side, columns) {
  const select = make("select", { "aria-label": `${side} picture`, onchange: () => ((state[side] = select.value), show(state.image)) });
  for (const column of columns) select.append(make("option", { value: column }, column));
  const preset = side === "left" ? columns[0] : columns.indexOf("restored") > 0 ? "restored" : columns[columns.length - 1];
  select.value = columns.includes(state[side]) ? state[side] : preset;
  return select;
}

/* One image under a slider; the left picture covers the right one up to its handle. */
function show(i, move = false) {
  state.image = i;
  const row = data.rows[i], box = document.getElementById("compare"), columns = Object.keys(row.pictures);
  const step = (by) => show(order()[(order().indexOf(i) + by + data.rows.length) % data.rows.length]);
  const controls = make("div", { class: "controls" }, make("div", { class: "title" }, row.name));
  const parts = [controls];
  if (columns.length) {
    const left = picker("left", columns), right = picker("right", columns);
    controls.append(make("label", {}, "left", left), make("label", {}, "right", right));
    parts.push(frame(row, left.value, right.value));
  } else {
    parts.push(make("p", { class: "quiet" }, `Pictures of the first ${data.pictured} images only are in this report.`));
  }
  controls.append(make("button", { type: "button", "aria-label": "Previous image", onclick: () => step(-1) }, "←"));
  controls.append(make("button", { type: "button", "aria-label": "Next image", onclick: () => step(1) }, "→"));
  const values = metrics.map((metric) => make("div", {}, make("span", {}, `${metric.title} `), make("b", {}, shown(row.values[metric.name]))));
  parts.push(make("div", { class: "values" }, ...values));
  box.replaceChildren(...parts);
  for (const line of document.querySelectorAll("#table tbody tr")) line.setAttribute("aria-current", String(line.dataset.image === row.name));
  if (move) box.scrollIntoView({ block: "nearest", behavior: "smooth" });
  remember();
}

function frame(row, left, right) {
  const [width, height] = row.size, stretch = `aspect-ratio: ${width} / ${height}; max-width: ${(620 * width) / height}px; --at: 50%`;
  const box = make("div", { class: "frame", style: stretch });
  const slide = make("input", { type: "range", min: 0, max: 100, step: 0.5, value: 50, "aria-label": `${left} against ${right}` });
  slide.addEventListener("input", () => box.style.setProperty("--at", `${slide.value}%`));
  box.append(make("img", { src: row.pictures[right], alt: `${right} of ${row.name}` }));
  box.append(make("img", { src: row.pictures[left], alt: `${left} of ${row.name}`, class: "over" }));
  box.append(make("div", { class: "edge" }), make("div", { class: "tag l" }, left), make("div", { class: "tag r" }, right), slide);
  return box;
}

function notes() {
  const box = document.getElementById("notes");
  const list = (title, lines) => lines.length && box.append(make("h2", {}, title), make("ul", {}, ...lines.map((line) => make("li", {}, line))));
  list("Not available", Object.entries(data.not_available).map(([name, reason]) => `${name}: ${reason}`));
  list("Not measured", data.notes);
}

/* What is shown can be linked to: #sort=psnr&down=1&image=3&theme=dark */
function remember() {
  const wanted = new URLSearchParams({ sort: state.sort, down: Number(state.down), image: state.image });
  if (document.documentElement.dataset.theme) wanted.set("theme", document.documentElement.dataset.theme);
  try { history.replaceState(null, "", `#${wanted}`); } catch (error) { /* a sandboxed page has no history */ }
}

function recall() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (metrics.some((metric) => metric.name === given.get("sort")) || given.get("sort") === "name") state.sort = given.get("sort");
  state.down = given.get("down") === "1";
  const image = Number(given.get("image"));
  state.image = Number.isInteger(image) && image >= 0 && image < data.rows.length ? image : 0;
  if (["light", "dark"].includes(given.get("theme"))) document.documentElement.dataset.theme = given.get("theme");
}

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = (root.dataset.theme || (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
  remember();
});
document.getElementById("about").textContent = data.about;
recall();
cards();
table();
if (data.rows.length) show(state.image);
notes();
document.documentElement.dataset.ready = "yes";
