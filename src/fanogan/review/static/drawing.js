// What is drawn: the ruler, and a region by polygon or brush, on the picture or on the en-face map.
import { $, all, data, draw, now } from "./shared.js";
import { label, say, send } from "./decisions.js";

const layers = {};
let points = [], place = "stage";
const [, rowMm, columnMm] = data.spacing;

// Takes the group in which what is being drawn is shown: of the 'stage', or of the 'fundus'.
export function drawsOn(name, layer) {
  layers[name] = layer;
}

export function begin(name, point) {
  if (now.tool === "polygon" && place === name) points.push(point);
  else points = [point];
  place = name;
  sketch();
}
export function extend(point) {
  if (points.length < 5000) points.push(point);
  if (now.tool === "ruler") measure();
  sketch();
}
export function end(event) {
  if (!points.length) return;
  if (now.tool === "brush" || (now.tool === "polygon" && event?.type === "dblclick")) finish();
}

export function sketch() {
  for (const layer of Object.values(layers)) layer.replaceChildren();
  if (!points.length) return;
  const line = (points.length > 1 ? points : [points[0], points[0]]).join(" ");
  if (now.tool === "ruler") draw(layers[place], "line", { x1: points[0][0], y1: points[0][1], x2: points.at(-1)[0], y2: points.at(-1)[1], class: "ruler" });
  else if (now.tool === "brush") draw(layers[place], "polyline", { points: line, class: "stroke chosen", "stroke-width": $("width").value });
  else draw(layers[place], "polyline", { points: line, class: "outline chosen open" });
}

function measure() {
  const [[x1, y1], [x2, y2]] = [points[0], points.at(-1)];
  const [dx, dy] = [x2 - x1, y2 - y1];
  $("measured").textContent = rowMm && columnMm
    ? `Ruler: ${Math.hypot(dx * columnMm, dy * rowMm).toFixed(3)} mm (${Math.abs(dx * columnMm).toFixed(3)} across, ${Math.abs(dy * rowMm).toFixed(3)} deep)`
    : `Ruler: ${Math.hypot(dx, dy).toFixed(1)} pixels; the size of a pixel isn't known`;
}

export function use(next) {
  now.tool = next;
  points = [];
  $("measured").textContent = "";
  for (const button of all("[data-tool]")) button.setAttribute("aria-pressed", button.dataset.tool === next);
  document.querySelector(".brush").hidden = next !== "brush";
  for (const name of ["stage", "fundus"]) if ($(name)) $(name).dataset.tool = next;
  sketch();
}

// Sends what was drawn; of a region that was to be drawn anew, that too.
export async function finish() {
  if (now.tool !== "polygon" && now.tool !== "brush") return;
  if (!points.length) return;
  if (now.tool === "polygon" && points.length < 3) return say("A polygon has three points or more.");
  const frame = place === "stage" ? now.frame : null;
  const value = { frame, shape: now.tool, points, width: now.tool === "brush" ? Number($("width").value) : 0, label: $("label").value };
  const instead = now.redraws;
  points = [];
  now.redraws = null;
  sketch();
  await send("draw", value);
  if (instead !== null) send("region", { verdict: "redrawn", label: label(instead) }, instead);
}

for (const button of all("[data-tool]")) button.addEventListener("click", () => use(button.dataset.tool));
