// The picture: an SVG whose pictures the browser itself scales, so that what is drawn are shapes.
import { $, base, clamp, data, draw, now, picture } from "./shared.js";
import { choose, regionsNow, say, verdict } from "./decisions.js";
import { begin, drawsOn, end, extend, sketch } from "./drawing.js";
import { enFace } from "./en_face.js";

export const stage = $("stage");
let stretch = 1, view = null, layers = null;
const grey = data.window ? { ...data.window } : null;
const [, rowMm, columnMm] = data.spacing;
let isNormal = false, isTruth = false, asked = 0;
// Of the scan, or in its place its nearest normal version.
const scanUrl = (number) => (grey || isNormal) && `${base}/${isNormal ? "normal" : "scan"}/${number}${grey ? `?low=${grey.low}&high=${grey.high}` : ""}`;

function place() {
  stage.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
  layers.all.setAttribute("transform", `scale(1 ${stretch})`);
}
export function fit() {
  view = { x: 0, y: 0, width: data.columns, height: data.rows * stretch };
  place();
}
export function zoom(factor, at = [view.x + view.width / 2, view.y + view.height / 2]) {
  const width = clamp(view.width / factor, data.columns / 40, data.columns * 2);
  const by = width / view.width;
  view = { x: at[0] - (at[0] - view.x) * by, y: at[1] - (at[1] - view.y) * by, width, height: view.height * by };
  place();
}
export function at(event, svg = stage) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  return [point.x, point.y];
}
const inPixels = ([x, y]) => [clamp(x, 0, data.columns), clamp(y / stretch, 0, data.rows)].map((value) => Math.round(value * 100) / 100);

export async function show(number) {
  now.frame = clamp(number, 0, data.frames - 1);
  const [wanted, turn] = [now.frame, ++asked];
  if (!stage) return;
  const score = data.scores[now.frame];
  $("now").textContent = [data.frames > 1 && `${now.frame} of 0–${data.frames - 1}`, data.frames > 1 && score != null && `score ${score.toPrecision(4)}`, isNormal && "nearest normal version"].filter(Boolean).join(" · ");
  if ($("frame")) $("frame").value = now.frame;
  shapes();
  enFace();
  const [scan, map, truth] = await Promise.all([scanUrl(wanted) ? picture(scanUrl(wanted)) : "", data.map ? picture(`${base}/map/${wanted}`) : "", isTruth && readTruth(wanted)]);
  if (turn !== asked) return;
  layers.scan.setAttribute("href", scan);
  layers.map.setAttribute("href", map);
  layers.truth.replaceChildren();
  for (const outline of truth?.outlines ?? []) draw(layers.truth, "polygon", { points: outline.join(" "), class: "outline truth" });
  if (truth?.problem) say(truth.problem);
  stage.dataset.shown = now.frame;
  for (const step of [1, -1, 2, -2]) {
    const next = wanted + step;
    if (next < 0 || next >= data.frames) continue;
    if (scanUrl(next)) picture(scanUrl(next));
    if (data.map) picture(`${base}/map/${next}`);
  }
}

async function readTruth(number) {
  const answer = await fetch(`${base}/truth/${number}`);
  return answer.ok ? answer.json() : { problem: "The truth can't be read." };
}

export function shapes() {
  if (!stage) return;
  layers.shapes.replaceChildren();
  for (const region of regionsNow()) {
    const style = `${verdict(region.key)}${region.key === now.chosen ? " chosen" : ""}`;
    const outlines = region.shape ? (region.shape.frame === now.frame ? [region.shape.points] : []) : region.outlines?.[now.frame] ?? [];
    for (const outline of outlines) {
      const brush = region.shape?.shape === "brush";
      const line = brush && outline.length === 1 ? [outline[0], outline[0]] : outline;
      const made = draw(layers.shapes, brush ? "polyline" : "polygon", { points: line.join(" "), class: `${brush ? "stroke" : "outline"} ${style}` });
      if (brush) made.setAttribute("stroke-width", region.shape.width);
      made.addEventListener("click", () => now.tool === "move" && choose(region.key, false));
      const left = Math.max(...outline.map(([x]) => x)), top = Math.min(...outline.map(([, y]) => y));
      draw(layers.shapes, "text", { x: Math.min(left + 2, data.columns - 12), y: top + 4, class: "number", transform: `translate(0 ${(top + 4) * (1 - 1 / stretch)}) scale(1 ${1 / stretch})`, "font-size": data.columns / 32 }, region.called);
    }
  }
  sketch();
}

if (stage) {
  layers = { all: draw(stage, "g") };
  const size = { width: data.columns, height: data.rows, preserveAspectRatio: "none" };
  layers.scan = draw(layers.all, "image", size);
  layers.map = draw(layers.all, "image", { ...size, opacity: ($("opacity")?.value ?? 100) / 100 });
  layers.truth = draw(layers.all, "g");
  layers.shapes = draw(layers.all, "g");
  drawsOn("stage", draw(layers.all, "g"));
  let dragged = null;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    if (now.tool === "move") dragged = at(event);
    else begin("stage", inPixels(at(event)));
    if (now.tool !== "polygon") stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!stage.hasPointerCapture(event.pointerId)) return;
    if (!dragged) return extend(inPixels(at(event)));
    const [x, y] = at(event);
    view.x -= x - dragged[0];
    view.y -= y - dragged[1];
    place();
  });
  stage.addEventListener("pointerup", () => { dragged = null; end(); });
  stage.addEventListener("dblclick", end);
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.ctrlKey || event.shiftKey) zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, at(event));
    else show(now.frame + Math.sign(event.deltaY));
  }, { passive: false });
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
  $("normal")?.addEventListener("click", () => {
    isNormal = !isNormal;
    $("normal").setAttribute("aria-pressed", isNormal);
    show(now.frame);
  });
  $("truth")?.addEventListener("click", () => {
    isTruth = !isTruth;
    $("truth").setAttribute("aria-pressed", isTruth);
    show(now.frame);
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
    waiting = setTimeout(() => show(now.frame), 60);
  };
  for (const id of ["window", "level"]) $(id)?.addEventListener("input", shade);
  $("frame")?.addEventListener("input", () => show($("frame").valueAsNumber));
  if ($("bars")) {
    const most = Math.max(...data.scores.map((score) => score ?? 0), 1e-12);
    data.scores.forEach((score, number) => score > 0 && draw($("bars"), "rect", { x: number + 0.1, width: 0.8, y: 1 - score / most, height: score / most }));
  }
  document.addEventListener("pointerdown", (event) => $("view")?.open && !$("view").contains(event.target) && ($("view").open = false));
  $("help").addEventListener("click", () => $("keys").showModal());
  fit();
}

