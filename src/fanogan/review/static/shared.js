// What the parts of the case page share: its data, what is chosen now, and how elements are made.
export const data = JSON.parse(document.getElementById("data").textContent);
export const $ = (id) => document.getElementById(id);
export const all = (selector) => [...document.querySelectorAll(selector)];
export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
export const base = `/cases/${data.id}`;

export function draw(parent, name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== "") made.textContent = text;
  parent.append(made);
  return made;
}
export function element(name, attributes = {}, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// What changes while the case is read.
export const now = { state: data.state, frame: data.start, chosen: null, tool: "move", redraws: null };

// --- pictures: a few are kept as blobs, so that stepping doesn't wait -----------------------------

const kept = new Map();
export function picture(url) {
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
