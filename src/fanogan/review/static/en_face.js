// The en-face map over the fundus, the ETDRS grid, and another visit beside it.
import { $, all, base, clamp, data, draw, element, now, picture } from "./shared.js";
import { choose, regionsNow, send, verdict } from "./decisions.js";
import { begin, drawsOn, end, extend } from "./drawing.js";
import { at, show } from "./stage.js";

const fundus = $("fundus");
let centre = now.state.mine.fovea ?? data.fundus?.centre, grid = true, fields = [], before = null;
let ground = null;

export function enFace() {
  if (!fundus) return;
  ground.regions.replaceChildren();
  for (const region of regionsNow()) {
    const style = `${verdict(region.key)}${region.key === now.chosen ? " chosen" : ""}`;
    const { shape, points, width } = region.plane ?? {};
    const isBrush = shape === "brush";
    for (const path of region.plane ? [points.length > 1 ? points : [points[0], points[0]]] : data.fundus.outlines[region.id] ?? []) {
      const made = draw(ground.regions, isBrush ? "polyline" : "polygon", { points: path.join(" "), class: `${isBrush ? "stroke" : "outline"} ${style}`, ...(isBrush && { "stroke-width": width }) });
      made.addEventListener("click", () => now.tool === "move" && choose(region.key));
    }
  }
  const [[x1, y1], [x2, y2]] = data.fundus.lines[now.frame] ?? [[0, 0], [0, 0]];
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
  drawsOn("fundus", draw(fundus, "g"));
  const [left, right] = data.fundus.sides;
  const text = { y: data.fundus.rows - 10, class: "side", "font-size": data.fundus.columns / 24 };
  if (left) draw(fundus, "text", { x: 8, ...text }, left);
  if (right) draw(fundus, "text", { x: data.fundus.columns - 8, "text-anchor": "end", ...text }, right);
  let held = "";
  const isDrawn = () => now.tool === "polygon" || now.tool === "brush";
  const inPicture = (event) => at(event, fundus).map((value, i) => Math.round(100 * clamp(value, 0, [data.fundus.columns, data.fundus.rows][i])) / 100);
  fundus.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    if (isDrawn()) {
      if (now.tool === "brush") fundus.setPointerCapture(event.pointerId);
      return begin("fundus", inPicture(event));
    }
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
    if (nearest !== now.frame) show(nearest);
  };
  fundus.addEventListener("pointermove", (event) => {
    if (!fundus.hasPointerCapture(event.pointerId)) return;
    if (isDrawn()) extend(inPicture(event));
    else follow(event);
  });
  fundus.addEventListener("pointerup", (event) => isDrawn() && end(event));
  fundus.addEventListener("dblclick", end);
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
