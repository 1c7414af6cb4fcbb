// What is decided: events that are sent again until they are kept, under one name, and the list of regions.
import { $, all, base, data, element, now } from "./shared.js";
import { use } from "./drawing.js";
import { enFace } from "./en_face.js";
import { shapes, show, stage } from "./stage.js";

export let sending = Promise.resolve();
export const say = (text) => ($("said").textContent = text);

export function send(kind, value = null, region = "") {
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
        now.state = found.state;
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

export const regionsNow = () => [
  ...data.regions.map((region) => ({ key: String(region.id), called: region.number, frame: region.bscan, ...region })),
  ...Object.entries(now.state.mine.drawn).map(([key, shape]) => drawn(key, key, shape)),
  ...now.state.others.flatMap((other) => Object.entries(other.drawn).map(([key, shape]) => drawn(key, `${key} (${other.who})`, shape))),
];
// What was drawn on the en-face map has no frame, and outlines on all B-scans that it covers.
const drawn = (key, called, shape) => (shape.frame === null ? { key, called, frame: shape.bscan, outlines: shape.outlines, plane: shape } : { key, called, frame: shape.frame, shape });
export const verdict = (key) => now.state.mine.regions[key]?.verdict ?? "";
export const label = (key) => now.state.mine.regions[key]?.label ?? "";

export function decide(word, key = now.chosen) {
  if (key === null) return say("Choose a region first, with [ or ].");
  send("region", { verdict: word, label: label(key) || (word === "accepted" ? $("label")?.value ?? "" : "") }, key);
}

export function choose(key, go = true) {
  now.chosen = key;
  const region = regionsNow().find((each) => each.key === key);
  if (go && region?.frame !== undefined) show(region.frame);
  decided();
}

export function decided() {
  const body = document.querySelector("#regions tbody");
  const focused = document.activeElement?.dataset?.of;
  body.replaceChildren();
  const regions = regionsNow();
  $("no-regions").hidden = regions.length > 0;
  $("regions").hidden = !regions.length;
  for (const region of regions) {
    const row = element("tr", { class: `${verdict(region.key)}${region.key === now.chosen ? " chosen" : ""}` });
    const name = element("th", { scope: "row" });
    const where = region.start_s ? ` ${region.start_s}–${region.end_s} s` : region.frame === undefined ? "" : ` · ${region.frame}`;
    const link = element("button", { class: "link", "aria-pressed": region.key === now.chosen, "data-of": `${region.key}-` }, `${region.called}${where}`);
    link.title = region.area_mm2 ? `${region.area_mm2.toFixed(3)} mm², mean ${region.mean.toPrecision(3)}` : region.mm3 ? `${region.mm3} mm³` : "";
    link.addEventListener("click", () => choose(region.key));
    name.append(link);
    const words = element("td", { class: "words" });
    for (const [word, sign] of [["accepted", "✓"], ["rejected", "✗"]]) {
      const button = element("button", { class: word, "aria-label": `Region ${region.called} ${word}`, "aria-pressed": verdict(region.key) === word, "data-of": `${region.key}-${word}` }, sign);
      button.addEventListener("click", () => { now.chosen = region.key; decide(word, region.key); });
      words.append(button);
    }
    if (!region.shape && !region.plane && !region.start_s && stage) {
      const button = element("button", { "aria-label": `Redraw region ${region.called}`, "aria-pressed": verdict(region.key) === "redrawn", "data-of": `${region.key}-redraw` }, "✎");
      button.addEventListener("click", () => { choose(region.key); now.redraws = region.key; use("polygon"); say(`Draw region ${region.called} anew, and press Enter.`); });
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
  for (const button of all("[data-judge]")) button.setAttribute("aria-pressed", now.state.mine.judgement === button.dataset.judge);
  if (document.activeElement !== $("note")) $("note").value = now.state.mine.note;
  $("undo").disabled = !now.state.can_undo;
  $("others").hidden = !now.state.others.length;
  $("others").lastElementChild.replaceChildren(...now.state.others.map((other) => {
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

