// The case page: its keys, and its first view.
import { $, all, clamp, data, now } from "./shared.js";
import { choose, decide, decided, regionsNow, sending } from "./decisions.js";
import { finish, use } from "./drawing.js";
import "./en_face.js";
import { fit, show, stage, zoom } from "./stage.js";

function step(by) {
  const keys = regionsNow().map((region) => region.key);
  if (keys.length) choose(keys[clamp(keys.indexOf(now.chosen) + by, 0, keys.length - 1)]);
}
const keys = {
  ArrowUp: () => show(now.frame - 1), ArrowDown: () => show(now.frame + 1), o: () => $("overlay")?.click(),
  r: () => $("normal")?.click(), t: () => $("truth")?.click(),
  "[": () => step(-1), "]": () => step(1), a: () => decide("accepted"), x: () => decide("rejected"),
  n: () => $("note").focus(), u: () => $("undo").click(), g: () => $("grid")?.click(),
  j: () => sending.then(() => $("next").click()), "+": () => stage && zoom(1.4), "-": () => stage && zoom(1 / 1.4), f: () => stage && fit(),
  l: () => stage && use("ruler"), p: () => stage && use("polygon"), b: () => stage && use("brush"),
  Enter: finish, Escape: () => { if ($("view")?.open) $("view").open = false; else if (stage) { now.redraws = null; use("move"); } }, "?": () => $("keys").showModal(),
};
all("[data-judge]").forEach((button, i) => (keys[i + 1] = () => button.click()));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  const inText = event.target.closest("textarea, select, input:not([type=range])");
  if (inText) { if (event.key === "Escape") event.target.blur(); return; }
  if (event.target.closest("button, a, summary") && event.key === "Enter") return;
  if (event.target.closest("input") && event.key.startsWith("Arrow") && event.target.id !== "frame") return;
  const done = keys[event.key];
  if (!done) return;
  event.preventDefault();
  done();
});

decided();
show(data.start);
