// The case page: an SVG whose pictures the browser itself scales, so that what is drawn are shapes.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const base = `/cases/${data.id}`;

function draw(parent, name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== "") made.textContent = text;
  parent.append(made);
  return made;
}
function element(name, attributes = {}, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// --- decisions: an event is sent again until it is kept, under one name ---------------------------

let state = data.state;
let chosen = null;
let sending = Promise.resolve();
const say = (text) => ($("said").textContent = text);

function send(kind, value = null, region = "") {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const request = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const body = JSON.stringify({ request, kind, value, region });
  sending = sending.then(async () => {
    for (let attempt = 1; ; attempt++) {
      try {
        const answer = await fetch(`${base}/events`, { method: "POST", body, headers: { "Content-Type": "application/json" } });
        if (answer.status === 401) return say("NOT kept: your session has ended. Log in again in another tab, and repeat it.");
        const found = await answer.json();
        if (!answer.ok) return say(`NOT kept: ${typeof found.detail === "string" ? found.detail : "it can't be read"}.`);
        state = found.state;
        say(kind === "undo" ? "Undone." : "Kept.");
        return decided();
      } catch {
        say(`NOT kept yet: the server doesn't answer; trying again (${attempt}).`);
        await new Promise((done) => setTimeout(done, 1000 * Math.min(attempt, 10)));
      }
    }
  });
  return sending;
}
addEventListener("beforeunload", (event) => {
  if ($("said").textContent.startsWith("NOT kept yet")) event.preventDefault();
});

const regionsNow = () => [
  ...data.regions.map((region) => ({ key: String(region.id), called: region.number, frame: region.bscan, ...region })),
  ...Object.entries(state.mine.drawn).map(([key, shape]) => ({ key, called: key, frame: shape.frame, shape })),
  ...state.others.flatMap((other) => Object.entries(other.drawn).map(([key, shape]) => ({ key, called: `${key} (${other.who})`, frame: shape.frame, shape }))),
];
const verdict = (key) => state.mine.regions[key]?.verdict ?? "";
const label = (key) => state.mine.regions[key]?.label ?? "";

function decide(word, key = chosen) {
  if (key === null) return say("Choose a region first, with [ or ].");
  send("region", { verdict: word, label: label(key) || (word === "accepted" ? $("label")?.value ?? "" : "") }, key);
}

function choose(key, go = true) {
  chosen = key;
  const region = regionsNow().find((each) => each.key === key);
  if (go && region?.frame !== undefined) show(region.frame);
  decided();
}

function decided() {
  const body = document.querySelector("#regions tbody");
  const focused = document.activeElement?.dataset?.of;
  body.replaceChildren();
  const regions = regionsNow();
  $("no-regions").hidden = regions.length > 0;
  $("regions").hidden = !regions.length;
  for (const region of regions) {
    const row = element("tr", { class: `${verdict(region.key)}${region.key === chosen ? " chosen" : ""}` });
    const name = element("th", { scope: "row" });
    const where = region.start_s ? ` ${region.start_s}–${region.end_s} s` : region.frame === undefined ? "" : ` · ${region.frame}`;
    const link = element("button", { class: "link", "aria-pressed": region.key === chosen, "data-of": `${region.key}-` }, `${region.called}${where}`);
    link.title = region.area_mm2 ? `${region.area_mm2.toFixed(3)} mm², mean ${region.mean.toPrecision(3)}` : "";
    link.addEventListener("click", () => choose(region.key));
    name.append(link);
    const words = element("td", { class: "words" });
    for (const [word, sign] of [["accepted", "✓"], ["rejected", "✗"]]) {
      const button = element("button", { class: word, "aria-label": `Region ${region.called} ${word}`, "aria-pressed": verdict(region.key) === word, "data-of": `${region.key}-${word}` }, sign);
      button.addEventListener("click", () => { chosen = region.key; decide(word, region.key); });
      words.append(button);
    }
    if (!region.shape && !region.start_s && $("stage")) {
      const button = element("button", { "aria-label": `Redraw region ${region.called}`, "aria-pressed": verdict(region.key) === "redrawn", "data-of": `${region.key}-redraw` }, "✎");
      button.addEventListener("click", () => { choose(region.key); redraws = region.key; use("polygon"); say(`Draw region ${region.called} anew, and press Enter.`); });
      words.append(button);
    }
    const kind = element("td");
    const select = element("select", { "aria-label": `Label of region ${region.called}`, "data-of": `${region.key}-label` });
    for (const text of new Set(["", ...data.labels, label(region.key)])) select.append(element("option", {}, text));
    select.value = label(region.key);
    select.addEventListener("change", () => send("region", { verdict: verdict(region.key) || "accepted", label: select.value }, region.key));
    kind.append(select);
    row.append(name, words, kind);
    body.append(row);
  }
  if (focused) body.querySelector(`[data-of="${focused}"]`)?.focus();
  for (const button of all("[data-judge]")) button.setAttribute("aria-pressed", state.mine.judgement === button.dataset.judge);
  if (document.activeElement !== $("note")) $("note").value = state.mine.note;
  $("undo").disabled = !state.can_undo;
  $("others").hidden = !state.others.length;
  $("others").lastElementChild.replaceChildren(...state.others.map((other) => {
    const words = Object.entries(other.regions).map(([key, word]) => `${regions.find((each) => each.key === key)?.called ?? key} ${word.verdict}${word.label ? ` (${word.label})` : ""}`);
    const line = element("p");
    line.append(element("strong", {}, other.who), `: ${other.judgement ?? "not judged"}. ${words.join(", ")}${other.note ? `. “${other.note}”` : ""}`);
    return line;
  }));
  shapes();
  enFace();
}

for (const button of all("[data-judge]")) button.addEventListener("click", () => send("case", button.dataset.judge));
$("note").addEventListener("change", () => send("note", $("note").value));
$("undo").addEventListener("click", () => send("undo"));

// --- pictures: a few are kept as blobs, so that stepping doesn't wait -----------------------------

const kept = new Map();
function picture(url) {
  if (!kept.has(url)) {
    kept.set(url, fetch(url).then(async (answer) => (answer.ok ? URL.createObjectURL(await answer.blob()) : "")).catch(() => { kept.delete(url); return ""; }));
    if (kept.size > 80) {
      const [oldest, gone] = kept.entries().next().value;
      kept.delete(oldest);
      gone.then((blob) => blob && URL.revokeObjectURL(blob));
    }
  }
  return kept.get(url);
}

// --- the stage --------------------------------------------------------------------------------------

const stage = $("stage");
let frame = data.start, tool = "move", stretch = 1, view = null, points = [], redraws = null, layers = null;
const grey = data.window ? { ...data.window } : null;
const [between, rowMm, columnMm] = data.spacing;
const scanUrl = (number) => `${base}/scan/${number}?low=${grey.low}&high=${grey.high}`;

function place() {
  stage.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
  layers.all.setAttribute("transform", `scale(1 ${stretch})`);
}
function fit() {
  view = { x: 0, y: 0, width: data.columns, height: data.rows * stretch };
  place();
}
function zoom(factor, at = [view.x + view.width / 2, view.y + view.height / 2]) {
  const width = clamp(view.width / factor, data.columns / 40, data.columns * 2);
  const by = width / view.width;
  view = { x: at[0] - (at[0] - view.x) * by, y: at[1] - (at[1] - view.y) * by, width, height: view.height * by };
  place();
}
function at(event, svg = stage) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  return [point.x, point.y];
}
const inPixels = ([x, y]) => [clamp(x, 0, data.columns), clamp(y / stretch, 0, data.rows)].map((value) => Math.round(value * 100) / 100);

async function show(number) {
  frame = clamp(number, 0, data.frames - 1);
  const now = frame;
  if (!stage) return;
  const score = data.scores[frame];
  $("now").textContent = data.frames > 1 ? `${frame} of 0–${data.frames - 1}${score == null ? "" : ` · score ${score.toPrecision(4)}`}` : "";
  if ($("frame")) $("frame").value = frame;
  shapes();
  enFace();
  const [scan, map] = await Promise.all([grey ? picture(scanUrl(now)) : "", data.map ? picture(`${base}/map/${now}`) : ""]);
  if (now !== frame) return;
  layers.scan.setAttribute("href", scan);
  layers.map.setAttribute("href", map);
  stage.dataset.shown = frame;
  for (const step of [1, -1, 2, -2]) {
    const next = now + step;
    if (next < 0 || next >= data.frames) continue;
    if (grey) picture(scanUrl(next));
    if (data.map) picture(`${base}/map/${next}`);
  }
}

function shapes() {
  if (!stage) return;
  layers.shapes.replaceChildren();
  for (const region of regionsNow()) {
    const style = `${verdict(region.key)}${region.key === chosen ? " chosen" : ""}`;
    const outlines = region.shape ? (region.shape.frame === frame ? [region.shape.points] : []) : region.outlines?.[frame] ?? [];
    for (const outline of outlines) {
      const brush = region.shape?.shape === "brush";
      const line = brush && outline.length === 1 ? [outline[0], outline[0]] : outline;
      const made = draw(layers.shapes, brush ? "polyline" : "polygon", { points: line.join(" "), class: `${brush ? "stroke" : "outline"} ${style}` });
      if (brush) made.setAttribute("stroke-width", region.shape.width);
      made.addEventListener("click", () => tool === "move" && choose(region.key, false));
      const left = Math.max(...outline.map(([x]) => x)), top = Math.min(...outline.map(([, y]) => y));
      draw(layers.shapes, "text", { x: Math.min(left + 2, data.columns - 12), y: top + 4, class: "number", transform: `translate(0 ${(top + 4) * (1 - 1 / stretch)}) scale(1 ${1 / stretch})`, "font-size": data.columns / 32 }, region.called);
    }
  }
  sketch();
}

function sketch() {
  layers.sketch.replaceChildren();
  if (points.length < 1) return;
  if (tool === "ruler") draw(layers.sketch, "line", { x1: points[0][0], y1: points[0][1], x2: points.at(-1)[0], y2: points.at(-1)[1], class: "ruler" });
  else if (tool === "brush") draw(layers.sketch, "polyline", { points: (points.length > 1 ? points : [points[0], points[0]]).join(" "), class: "stroke chosen", "stroke-width": $("width").value });
  else draw(layers.sketch, "polyline", { points: points.join(" "), class: "outline chosen open" });
}

function measure() {
  const [[x1, y1], [x2, y2]] = [points[0], points.at(-1)];
  const [dx, dy] = [x2 - x1, y2 - y1];
  $("measured").textContent = rowMm && columnMm
    ? `Ruler: ${Math.hypot(dx * columnMm, dy * rowMm).toFixed(3)} mm (${Math.abs(dx * columnMm).toFixed(3)} across, ${Math.abs(dy * rowMm).toFixed(3)} deep)`
    : `Ruler: ${Math.hypot(dx, dy).toFixed(1)} pixels; the size of a pixel isn't known`;
}

function use(next) {
  tool = next;
  points = [];
  $("measured").textContent = "";
  for (const button of all("[data-tool]")) button.setAttribute("aria-pressed", button.dataset.tool === tool);
  document.querySelector(".brush").hidden = tool !== "brush";
  stage.dataset.tool = tool;
  sketch();
}

async function finish() {
  if (tool === "polygon" && points.length < 3) return say("A polygon has three points or more.");
  const value = { frame, shape: tool, points, width: tool === "brush" ? Number($("width").value) : 0, label: $("label").value };
  const instead = redraws;
  points = [];
  redraws = null;
  sketch();
  await send("draw", value);
  if (instead !== null) send("region", { verdict: "redrawn", label: label(instead) }, instead);
}

if (stage) {
  layers = { all: draw(stage, "g") };
  const size = { width: data.columns, height: data.rows, preserveAspectRatio: "none" };
  layers.scan = draw(layers.all, "image", size);
  layers.map = draw(layers.all, "image", { ...size, opacity: ($("opacity")?.value ?? 100) / 100 });
  layers.shapes = draw(layers.all, "g");
  layers.sketch = draw(layers.all, "g");
  let dragged = null;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    const point = inPixels(at(event));
    if (tool === "move") dragged = at(event);
    else if (tool === "polygon") points.push(point);
    else points = [point];
    if (tool !== "polygon") stage.setPointerCapture(event.pointerId);
    sketch();
  });
  stage.addEventListener("pointermove", (event) => {
    if (!stage.hasPointerCapture(event.pointerId)) return;
    if (tool === "move" && dragged) {
      const [x, y] = at(event);
      view.x -= x - dragged[0];
      view.y -= y - dragged[1];
      return place();
    }
    if (points.length < 5000) points.push(inPixels(at(event)));
    if (tool === "ruler") measure();
    sketch();
  });
  stage.addEventListener("pointerup", () => {
    dragged = null;
    if (tool === "brush" && points.length) finish();
  });
  stage.addEventListener("dblclick", () => tool === "polygon" && finish());
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.ctrlKey || event.shiftKey) zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, at(event));
    else show(frame + Math.sign(event.deltaY));
  }, { passive: false });
  for (const button of all("[data-tool]")) button.addEventListener("click", () => use(button.dataset.tool));
  $("larger").addEventListener("click", () => zoom(1.4));
  $("smaller").addEventListener("click", () => zoom(1 / 1.4));
  $("fit").addEventListener("click", fit);
  $("to-scale")?.addEventListener("click", () => {
    stretch = stretch === 1 ? rowMm / columnMm : 1;
    $("to-scale").setAttribute("aria-pressed", stretch !== 1);
    fit();
    shapes();
  });
  $("overlay")?.addEventListener("click", () => {
    const off = layers.map.classList.toggle("off");
    $("overlay").setAttribute("aria-pressed", !off);
  });
  $("opacity")?.addEventListener("input", () => layers.map.setAttribute("opacity", $("opacity").value / 100));
  const initial = grey && { ...grey };
  let waiting;
  const shade = () => {
    const extent = initial.high - initial.low;
    const width = (extent * $("window").value) / 100;
    const level = initial.low + (extent * $("level").value) / 100;
    [grey.low, grey.high] = [level - width / 2, level + width / 2];
    clearTimeout(waiting);
    waiting = setTimeout(() => show(frame), 60);
  };
  for (const id of ["window", "level"]) $(id)?.addEventListener("input", shade);
  $("frame")?.addEventListener("input", () => show($("frame").valueAsNumber));
  if ($("bars")) {
    const most = Math.max(...data.scores.map((score) => score ?? 0), 1e-12);
    data.scores.forEach((score, number) => score > 0 && draw($("bars"), "rect", { x: number + 0.1, width: 0.8, y: 1 - score / most, height: score / most }));
  }
  $("help").addEventListener("click", () => $("keys").showModal());
  fit();
}

// --- en face -----------------------------------------------------------------------------------------

const fundus = $("fundus");
let centre = state.mine.fovea ?? data.fundus?.centre, grid = true, fields = [], before = null;
let ground = null;

function enFace() {
  if (!fundus) return;
  ground.regions.replaceChildren();
  for (const region of data.regions) {
    const key = String(region.id);
    for (const path of data.fundus.outlines[region.id] ?? []) {
      const made = draw(ground.regions, "polygon", { points: path.join(" "), class: `outline ${verdict(key)}${key === chosen ? " chosen" : ""}` });
      made.addEventListener("click", () => choose(key));
    }
  }
  const [[x1, y1], [x2, y2]] = data.fundus.lines[frame] ?? [[0, 0], [0, 0]];
  for (const line of ground.lines) for (const [key, value] of Object.entries({ x1, y1, x2, y2 })) line.setAttribute(key, value);
  ground.grid.replaceChildren();
  const [x, y] = centre, mm = data.fundus.pixel_mm;
  if (grid && mm) {
    const [inner, , outer] = data.radii.map((radius) => radius / mm);
    for (const radius of data.radii) draw(ground.grid, "circle", { cx: x, cy: y, r: radius / mm });
    for (const [a, b] of [[1, 1], [1, -1], [-1, 1], [-1, -1]].map((ends) => ends.map((end) => end * Math.SQRT1_2))) draw(ground.grid, "line", { x1: x + a * inner, y1: y + b * inner, x2: x + a * outer, y2: y + b * outer });
  }
  const arm = data.fundus.columns / 40;
  draw(ground.grid, "path", { d: `M${x - arm} ${y}h${2 * arm}M${x} ${y - arm}v${2 * arm}`, class: "cross" });
}

async function readGrid(number = data.id, [column, row] = centre) {
  const answer = await fetch(`/cases/${number}/grid?column=${column}&row=${row}`);
  return answer.ok ? answer.json() : [];
}
async function tabulate() {
  fields = await readGrid();
  const [head, body] = [document.querySelector("#fields thead"), document.querySelector("#fields tbody")];
  body.replaceChildren();
  head.replaceChildren();
  if (!fields.length) return;
  const text = (value, digits) => (value == null ? "–" : value.toFixed(digits));
  const columns = [["Map", (field) => text(field.map, 3)]];
  const change = (key, digits) => (field, i) => {
    const was = before[i]?.[key];
    const by = field[key] == null || was == null ? null : Number((field[key] - was).toFixed(digits));
    return by === null ? "–" : `${by > 0 ? "+" : by < 0 ? "−" : ""}${Math.abs(by).toFixed(digits)}`;
  };
  if (before) columns.push(["Change", change("map", 3)]);
  if (fields.some((field) => field.thickness != null)) {
    columns.push(["µm", (field) => text(field.thickness, 0)]);
    if (before) columns.push(["Change", change("thickness", 0)]);
  }
  columns.push(["Scanned", (field) => `${Math.round(100 * field.covered)} %`]);
  const top = element("tr");
  for (const called of ["Field", ...columns.map(([called]) => called)]) top.append(element("th", { scope: "col", class: called === "Field" ? "" : "number" }, called));
  head.append(top);
  fields.forEach((field, i) => {
    const row = element("tr");
    row.append(element("th", { scope: "row" }, field.name), ...columns.map(([, value]) => element("td", { class: "number" }, value(field, i))));
    body.append(row);
  });
}
let moving;
function moved() {
  enFace();
  clearTimeout(moving);
  moving = setTimeout(() => { send("fovea", centre); tabulate(); }, 400);
}

if (fundus) {
  fundus.setAttribute("viewBox", `0 0 ${data.fundus.columns} ${data.fundus.rows}`);
  const size = { width: data.fundus.columns, height: data.fundus.rows };
  ground = {};
  for (const [name, place] of [["picture", "fundus"], ["map", "fundus_map"]]) {
    const image = draw(fundus, "image", size);
    picture(`${base}/${place}`).then((url) => image.setAttribute("href", url));
  }
  ground.regions = draw(fundus, "g");
  ground.lines = ["under", "over"].map((name) => draw(fundus, "line", { class: `scan-line ${name}` }));
  ground.grid = draw(fundus, "g", { class: "etdrs" });
  const [left, right] = data.fundus.sides;
  const text = { y: data.fundus.rows - 10, class: "side", "font-size": data.fundus.columns / 24 };
  if (left) draw(fundus, "text", { x: 8, ...text }, left);
  if (right) draw(fundus, "text", { x: data.fundus.columns - 8, "text-anchor": "end", ...text }, right);
  let held = "";
  fundus.addEventListener("pointerdown", (event) => {
    const [x, y] = at(event, fundus);
    held = Math.hypot(x - centre[0], y - centre[1]) < data.fundus.columns / 20 ? "fovea" : "line";
    fundus.setPointerCapture(event.pointerId);
    follow(event);
  });
  const follow = (event) => {
    const [x, y] = at(event, fundus);
    if (held === "fovea") {
      centre = [clamp(x, 0, data.fundus.columns), clamp(y, 0, data.fundus.rows)];
      return moved();
    }
    const away = data.fundus.lines.map(([[x1, y1], [x2, y2]]) => {
      const [dx, dy] = [x2 - x1, y2 - y1];
      const along = clamp(((x - x1) * dx + (y - y1) * dy) / (dx * dx + dy * dy || 1), 0, 1);
      return Math.hypot(x - x1 - along * dx, y - y1 - along * dy);
    });
    const nearest = away.indexOf(Math.min(...away));
    if (nearest !== frame) show(nearest);
  };
  fundus.addEventListener("pointermove", (event) => fundus.hasPointerCapture(event.pointerId) && follow(event));
  for (const button of all("[data-fovea]")) button.addEventListener("click", () => {
    const [x, y] = button.dataset.fovea.split(",").map(Number);
    const step = data.fundus.pixel_mm ? 0.1 / data.fundus.pixel_mm : 5;
    centre = [centre[0] + x * step, centre[1] + y * step];
    moved();
  });
  $("grid").addEventListener("click", () => { grid = !grid; $("grid").setAttribute("aria-pressed", grid); enFace(); });
  tabulate();
}

// --- another visit: its fovea at the same place, at the same scale -----------------------------------

$("visit")?.addEventListener("change", async () => {
  const number = $("visit").value;
  $("visit-stage").hidden = !number;
  before = null;
  if (!number) { $("changed").textContent = ""; return tabulate(); }
  const other = await (await fetch(`/cases/${number}/beside`)).json();
  const svg = $("visit-fundus");
  svg.replaceChildren();
  if (!other.fundus || !fundus) { $("changed").textContent = "It has no en-face map."; $("visit-stage").hidden = true; return; }
  const place = other.fovea ?? other.fundus.centre;
  const scale = data.fundus.pixel_mm && other.fundus.pixel_mm ? data.fundus.pixel_mm / other.fundus.pixel_mm : 1;
  svg.setAttribute("viewBox", `${place[0] - centre[0] * scale} ${place[1] - centre[1] * scale} ${data.fundus.columns * scale} ${data.fundus.rows * scale}`);
  for (const name of ["fundus", "fundus_map"]) {
    const image = draw(svg, "image", { width: other.fundus.columns, height: other.fundus.rows });
    image.setAttribute("href", await picture(`/cases/${number}/${name}`));
  }
  for (const paths of Object.values(other.fundus.outlines)) for (const path of paths) draw(svg, "polygon", { points: path.join(" "), class: "outline" });
  before = await readGrid(number, place);
  const by = data.score - other.score;
  $("changed").textContent = `Score ${by < 0 ? "lower" : "higher"} by ${Math.abs(by).toPrecision(3)} here; regions ${other.regions} there, ${data.regions.length} here. Changes of the fields are in the table.`;
  tabulate();
});

// --- keys ---------------------------------------------------------------------------------------------

function step(by) {
  const keys = regionsNow().map((region) => region.key);
  if (keys.length) choose(keys[clamp(keys.indexOf(chosen) + by, 0, keys.length - 1)]);
}
const keys = {
  ArrowUp: () => show(frame - 1), ArrowDown: () => show(frame + 1), o: () => $("overlay")?.click(),
  "[": () => step(-1), "]": () => step(1), a: () => decide("accepted"), x: () => decide("rejected"),
  n: () => $("note").focus(), u: () => $("undo").click(), g: () => $("grid")?.click(),
  j: () => sending.then(() => $("next").click()), "+": () => stage && zoom(1.4), "-": () => stage && zoom(1 / 1.4), f: () => stage && fit(),
  l: () => stage && use("ruler"), p: () => stage && use("polygon"), b: () => stage && use("brush"),
  Enter: () => tool === "polygon" && points.length && finish(), Escape: () => stage && (redraws = null, use("move")), "?": () => $("keys").showModal(),
};
all("[data-judge]").forEach((button, i) => (keys[i + 1] = () => button.click()));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  const inText = event.target.closest("textarea, select, input:not([type=range])");
  if (inText) { if (event.key === "Escape") event.target.blur(); return; }
  if (event.target.closest("button, a") && event.key === "Enter") return;
  if (event.target.closest("input") && event.key.startsWith("Arrow") && event.target.id !== "frame") return;
  const done = keys[event.key];
  if (!done) return;
  event.preventDefault();
  done();
});

chosen = null;
decided();
show(data.start);
