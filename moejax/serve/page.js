"use strict";
const $ = id => document.getElementById(id);
const make = (tag, text = "", name) =>
  Object.assign(document.createElement(tag), { textContent: text }, name && { className: name });
const percent = share => `${(100 * share).toFixed(1)}%`;
const chosen = {}; // k and capacity factor, once they have been moved
let run, waiting = false, again = false, asked = 0;

// ——— Asking: one question at a time, the newest after it.
async function ask() {
  if (waiting) { again = true; return; }
  const question = { image: drawn, texts: written, text: typed }[run.reads]();
  const mine = asked;
  if (!question) return;
  waiting = true;
  const begun = performance.now();
  try {
    const reply = await fetch("api/predict", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ ...question, ...chosen }),
    });
    const said = await reply.json();
    if (mine === asked) reply.ok ? show(said, performance.now() - begun) : complain(said.error);
  } catch (error) {
    if (mine === asked) complain(`The server does not answer (${error.message}); is it still running?`);
  }
  waiting = false;
  if (again) { again = false; ask(); }
}
function complain(sentence) { $("error").textContent = sentence; $("error").hidden = !sentence; }
function forget() { // what was asked before is of no interest any more
  asked += 1;
  complain("");
  for (const id of ["answer", "notes", "layers", "time"]) $(id).replaceChildren();
  $("layers-section").hidden = true;
  $("nothing").hidden = false;
}

// ——— Drawing, in the ground and ink that the network learnt.
const pad = $("pad"), pen = pad.getContext("2d", { willReadFrequently: true });
let touched = false, last = null;
function clear() {
  pen.fillStyle = run.ground === "dark" ? "#000" : "#fff";
  pen.fillRect(0, 0, pad.width, pad.height);
  touched = false;
}
function stroke(points) {
  pen.strokeStyle = run.ground === "dark" ? "#fff" : "#000";
  Object.assign(pen, { lineWidth: 20, lineCap: "round", lineJoin: "round" });
  pen.beginPath();
  points.forEach(([x, y], n) => n ? pen.lineTo(x, y) : pen.moveTo(x, y));
  if (points.length === 1) pen.lineTo(points[0][0] + 0.1, points[0][1]);
  pen.stroke();
  touched = true;
}
function place(event) {
  const box = pad.getBoundingClientRect();
  return [(event.clientX - box.left) * pad.width / box.width, (event.clientY - box.top) * pad.height / box.height];
}
function drawn() { return touched ? { image: pad.toDataURL("image/png").split(",")[1] } : null; }
pad.addEventListener("pointerdown", event => {
  if (event.button) return;
  if (event.isTrusted) pad.setPointerCapture(event.pointerId);
  last = place(event);
  stroke([last]);
  ask();
});
pad.addEventListener("pointermove", event => {
  if (!last) return;
  const next = place(event);
  stroke([last, next]);
  last = next;
  ask();
});
for (const end of ["pointerup", "pointercancel"]) pad.addEventListener(end, () => { last = null; });
$("clear").addEventListener("click", () => { clear(); forget(); });
$("file").addEventListener("change", async event => {
  const [file] = event.target.files;
  event.target.value = "";
  if (!file) return;
  try {
    const picture = await createImageBitmap(file), scale = Math.min(pad.width / picture.width, pad.height / picture.height);
    const [width, height] = [picture.width * scale, picture.height * scale];
    forget();
    clear();
    pen.fillStyle = "#fff"; // what is transparent is paper
    pen.fillRect(0, 0, pad.width, pad.height);
    if (width < pad.width || height < pad.height) fill(picture);
    pen.drawImage(picture, (pad.width - width) / 2, (pad.height - height) / 2, width, height);
    touched = true;
    ask();
  } catch {
    asked += 1; // an answer that is on its way would hide the sentence
    again = false;
    complain(`${file.name} cannot be read as a picture; choose another.`);
  }
});
function fill(picture) { // the margins have the colour of the picture's corner
  pen.drawImage(picture, 0, 0, 1, 1, 0, 0, pad.width, pad.height);
}
// Digits as lines on 280 × 280.
const arc = (x, y, rx, ry, from, to) => Array.from({ length: 25 }, (_, n) => {
  const turn = (from + (to - from) * n / 24) * Math.PI / 180;
  return [x + rx * Math.cos(turn), y + ry * Math.sin(turn)];
});
const DIGITS = [
  [arc(140, 140, 52, 82, 0, 360)],
  [[[118, 82], [148, 58], [140, 222]]],
  [[...arc(140, 106, 50, 48, 190, 390), [88, 220], [200, 220]]],
  [[...arc(134, 98, 46, 40, 200, 440), ...arc(134, 180, 54, 44, 280, 510)]],
  [[[110, 62], [90, 150], [192, 150]], [[176, 70], [164, 226]]],
  [[[194, 64], [112, 64], [102, 130], ...arc(136, 170, 54, 52, 230, 500)]],
  [[[176, 56], ...arc(136, 172, 46, 50, 200, 560), [92, 150]]],
  [[[84, 68], [194, 68], [130, 224]]],
  [[...arc(140, 98, 40, 40, 90, 450), ...arc(140, 182, 48, 44, -90, 270)]],
  [[...arc(140, 104, 44, 44, 0, 360), [184, 104], [168, 224]]],
];
function examples() {
  DIGITS.forEach((strokes, digit) => {
    const button = make("button", digit);
    button.type = "button";
    button.setAttribute("aria-label", `Example: draw a ${digit}`);
    button.addEventListener("click", () => { clear(); forget(); strokes.forEach(stroke); ask(); });
    $("examples").append(button);
  });
  $("examples").hidden = false;
}

// ——— Writing.
function written() {
  const texts = [$("first").value, $("second").value];
  return texts.every(text => text.trim()) ? { texts } : null;
}
let pause;
for (const id of ["first", "second"]) $(id).addEventListener("input", () => {
  clearTimeout(pause);
  if (!written()) forget();
  pause = setTimeout(ask, 150);
});
const PAIRS = [
  ["He bought a new car on Monday.", "On Monday, a new car was bought by him."],
  ["The company's shares rose by five percent.", "The weather in the north will stay dry."],
];
for (const [n, pair] of PAIRS.entries()) {
  const button = make("button", ["Example: the same in other words", "Example: two things"][n]);
  button.type = "button";
  button.addEventListener("click", () => { [$("first").value, $("second").value] = pair; ask(); });
  $("pairs").append(button);
}

// ——— Settings of sparse layers.
const LABELS = { k: "Experts a token (k)", capacity_factor: "Capacity factor" };
function sliders() {
  for (const [name, { value, values }] of Object.entries(run.settings)) {
    if (values.length < 2) continue;
    const label = make("label", LABELS[name]), slider = make("input"), now = make("output");
    Object.assign(slider, { type: "range", min: 0, max: values.length - 1, step: 1 });
    slider.value = values.indexOf(value);
    const say = () => {
      const said = values[slider.value] ?? "none: no limit";
      now.textContent = said;
      slider.setAttribute("aria-valuetext", said);
    };
    slider.addEventListener("input", () => { chosen[name] = values[slider.value]; say(); ask(); });
    say();
    label.append(now, slider);
    $("settings").append(label);
  }
  $("settings").hidden = !$("settings").children.length;
}

// ——— The answer.
function show(said, roundTrip) {
  complain("");
  $("nothing").hidden = true;
  const text = run.reads === "text";
  const places = ["#answer button", "#layers [role=img]"].map(of => [of, [...document.querySelectorAll(of)].indexOf(document.activeElement)]);
  $("answer").replaceChildren(...(text ? following(said) : (said.tasks ?? [said]).flatMap(bars)));
  $("notes").replaceChildren(...[...(said.notes ?? []), ...(text ? cut() : [])].map(note => make("li", note)));
  $("time").textContent = `${said.milliseconds.toFixed(1)} ms in the network, ${roundTrip.toFixed(0)} ms in all`;
  $("layers-section").hidden = !(text ? said.tokens : said.layers).length;
  $("layers").replaceChildren(...(text ? [drawnText(said)] : said.layers.map(layer => drawnLayer(layer, said))));
  for (const [of, n] of places) if (n >= 0) document.querySelectorAll(of)[n]?.focus(); // what is made anew has it again
}
function bars(task) {
  const best = make("p", task.class, "class"), list = make("dl", "", "bars");
  best.append(make("small", `${task.task ? `${task.task}, ` : ""}${percent(task.probability)}`));
  const order = task.top.length <= 12 ? [...task.top].sort((a, b) => a.class.localeCompare(b.class, "en", { numeric: true })) : task.top.slice(0, 12);
  for (const { class: name, probability } of order) {
    const bar = make("dd", "", "bar"), full = make("i");
    full.style.width = percent(probability);
    bar.setAttribute("aria-hidden", "true");
    bar.append(full);
    list.append(make("dt", name), bar, make("dd", percent(probability), "much"));
  }
  return [best, list];
}
const shown = {}; // of each layer the cell that was last looked at
function drawnLayer(layer, said) {
  const block = make("article"), detail = make("p", "", "detail"), cells = make("div", "", layer.grid ? "cells" : "words");
  const names = layer.grid ? layer.gates.map((_, t) => place_of(t, layer.grid)) : said.tokens.length ? said.tokens
    : layer.gates.map((_, t) => layer.gates.length > 1 ? `token ${t}` : "all of it");
  const all = names.slice(0, layer.gates.length).map((name, t) => drawnCell(name, layer.gates[t], !layer.grid));
  const look = (t, focus) => {
    all.forEach((cell, n) => { cell.tabIndex = n === t ? 0 : -1; cell.classList.toggle("shown", n === t); });
    detail.textContent = all[t].getAttribute("aria-label");
    shown[layer.name] = t;
    if (focus) all[t].focus();
  };
  const across = layer.grid ? layer.grid[1] : 1;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across };
  all.forEach((cell, t) => {
    cell.addEventListener("pointerenter", () => look(t));
    cell.addEventListener("click", () => look(t, true));
    cell.addEventListener("focus", () => look(t));
    cell.addEventListener("keydown", event => {
      if (!(event.key in steps)) return;
      event.preventDefault();
      look(Math.min(Math.max(t + steps[event.key], 0), all.length - 1), true);
    });
  });
  cells.setAttribute("role", "group");
  cells.setAttribute("aria-label", `${layer.name}: arrow keys move`);
  cells.append(...all);
  const frame = make("div", "", layer.grid && "map");
  frame.append(cells);
  if (layer.grid) {
    cells.style.gridTemplateColumns = `repeat(${across}, 1fr)`;
    const [high, wide] = said.image.length ? [said.image.length, said.image[0].length] : [1, 1];
    frame.style.setProperty("--shape", `${wide * layer.grid[0]} / ${high * across}`);
    frame.append(ghost(said.image));
  }
  block.append(make("h3", layer.name), frame, detail, legend(layer.shares));
  look(Math.min(shown[layer.name] ?? heaviest(layer.gates, all.length), all.length - 1));
  return block;
}
const place_of = (t, [rows, across]) =>
  across > 1 ? `row ${Math.floor(t / across) + 1}, column ${t % across + 1}` : `row ${t + 1}`;
function heaviest(gates, count) { // the token of which one expert has most
  const most = gates.slice(0, count).map(of => Math.max(...of));
  return most.indexOf(Math.max(...most));
}
function drawnCell(name, gates, inWords) {
  const order = gates.map((g, e) => [Math.abs(g), e]).filter(([g]) => g >= 0.005).sort((a, b) => b[0] - a[0]);
  const some = gates.some(g => g);
  const cell = make("div", inWords ? name : "", some ? "cell" : "cell none");
  const said = order.slice(0, 4).map(([, e]) => `expert ${e} ${gates[e].toFixed(2)}`).join(", ");
  const more = order.length > 4 ? `, ${order.length - 4} more` : "";
  cell.setAttribute("role", "img");
  cell.setAttribute("aria-label", `${name}: ${said || (some ? "many experts, each below 0.01" : "no expert takes it")}${more}`);
  if (order.length) {
    cell.style.setProperty("--colour", `var(--expert-${order[0][1]})`);
    cell.style.setProperty("--much", `${(15 + 85 * Math.min(order[0][0], 1)).toFixed(0)}%`);
  }
  return cell;
}
function ghost(image) { // what the network saw, over the cells
  const over = make("canvas"), [high, wide] = [image.length, image[0].length];
  Object.assign(over, { width: wide, height: high });
  over.setAttribute("aria-hidden", "true");
  const brush = over.getContext("2d"), pixels = brush.createImageData(wide, high);
  const ink = matchMedia("(prefers-color-scheme: dark)").matches ? 255 : 20;
  const ground = run.ground === "dark" ? 0 : 255;
  image.flat().forEach((value, n) => {
    const grey = Array.isArray(value) ? value.reduce((a, b) => a + b) / value.length : value;
    pixels.data.set([ink, ink, ink, 0.75 * Math.abs(grey - ground)], 4 * n);
  });
  brush.putImageData(pixels, 0, 0);
  return over;
}
function legend(shares) {
  const list = make("ul", "", "legend");
  const order = shares.map((share, e) => [share, e]).sort((a, b) => b[0] - a[0]).slice(0, 16).sort((a, b) => a[1] - b[1]);
  for (const [share, e] of order) {
    const item = make("li"), dot = make("i");
    dot.style.setProperty("--colour", `var(--expert-${e})`);
    item.append(dot, `expert ${e} ${(100 * share).toFixed(0)}%`);
    list.append(item);
  }
  return list;
}

// ——— Beginning.
const HOW = {
  sparse: "The router sends each token to few experts. A cell has the colour of the one with most weight, paler where that is less; hatched cells go to no expert.",
  soft: "Experts work on mixtures of tokens. A cell has the colour of the expert that gives most to its output, paler where that is less.",
};
async function begin() {
  run = await (await fetch("api/run")).json();
  $("what").textContent = [`${run.layer.replace("_", "-")} mixture of ${run.num_experts} experts`, run.layer === "sparse" ? run.router : "", run.data, `step ${run.step}`].filter(Boolean).join(" · ");
  $("how").textContent = HOW[run.layer] ?? "All experts work on all tokens. A cell has the colour of the one with most weight, paler where that is less.";
  if (run.reads === "image") {
    const [high, wide] = run.shape;
    pad.width = Math.round(280 * Math.sqrt(wide / high));
    pad.height = Math.round(280 * Math.sqrt(high / wide));
    pad.style.aspectRatio = `${pad.width} / ${pad.height}`;
    $("drawing").hidden = false;
    clear();
    if (run.digits) examples();
  } else if (run.reads === "text") {
    document.body.classList.add("of-text");
    $("said-title").textContent = "What comes next";
    $("how").textContent = "The colour and the number below a token are those of the expert with most weight, paler where that is less.";
    $("typing").hidden = false;
    if (run.data === "python") beginnings();
    ask();
  } else $("writing").hidden = false;
  sliders();
}
begin().catch(error => complain(`The server does not answer (${error.message}); is it still running?`));
