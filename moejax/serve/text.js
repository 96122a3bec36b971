
// ——— Text: typed, foretold, coloured by expert, and gone on with.
const LETTERS = 1500, WRITTEN = 300; // the last ones are asked about; tokens of one going on
const typed = () => ({ text: [...$("text").value].slice(-LETTERS).join("") });
const cut = () => [...$("text").value].length > LETTERS ? [`of this text the last ${LETTERS.toLocaleString("en")} letters are read`] : [];
const cost = bits => bits === null ? "the first: not foretold" : `${bits.toFixed(2)} bits, foretold with ${percent(2 ** -bits)}`;
let colouredBy = 0; // the layer, or "bits"
function following(said) { // the most probable next tokens, to push
  const list = make("dl", "", "bars");
  for (const { class: name, text, probability } of said.top.slice(0, 8)) {
    const next = make("dt"), button = make("button", name, "next"), bar = make("dd", "", "bar"), full = make("i");
    Object.assign(button, { type: "button", disabled: text === undefined });
    button.setAttribute("aria-label", `${name}: write it`);
    button.addEventListener("click", () => { $("text").value += text; typedOn(); });
    full.style.width = percent(probability);
    bar.setAttribute("aria-hidden", "true");
    bar.append(full);
    next.append(button);
    list.append(next, bar, make("dd", percent(probability), "much"));
  }
  return [list];
}
const SIGNS = { "\n": "⏎", "\t": "⇥" };
const seen = text => [...text].flatMap(letter => letter in SIGNS ? [make("s", SIGNS[letter]), letter] : [letter]);
function drawnText(said) {
  const block = make("article"), buttons = make("div", "", "buttons"), code = make("div", "", "code"), below = make("div");
  const detail = make("p", "", "detail"), cells = said.tokens.map((name, t) => {
    const cell = make("i");
    cell.append(...seen(said.texts[t]));
    cell.setAttribute("role", "img");
    cell.setAttribute("aria-label", [`${name}: ${cost(said.bits[t])}`, ...said.layers.map(layer => expertsOf(layer, t))].join("; "));
    return cell;
  });
  const paint = view => {
    colouredBy = view;
    [...buttons.children].forEach(button => button.setAttribute("aria-pressed", button.value === String(view)));
    cells.forEach((cell, t) => {
      const [e, weight] = view === "bits" ? [null, said.bits[t] / 10] : said.layers[view].experts[t][0] ?? [null, 0];
      const number = view === "bits" ? said.bits[t]?.toFixed(0) : e;
      cell.style.setProperty("--colour", e === null ? "var(--accent)" : `var(--expert-${e})`);
      cell.style.setProperty("--much", `${Math.round(100 * Math.min(weight, 1))}%`);
      cell.style.setProperty("--n", `"${number ?? ""}"`);
    });
    const known = said.bits.slice(1), mean = known.reduce((a, b) => a + b, 0) / known.length;
    below.replaceChildren(view !== "bits" ? legend(said.layers[view].shares)
      : make("p", `The number is what a token cost in bits${known.length ? `, ${mean.toFixed(2)} on average` : ""}.`, "note"));
  };
  const look = (t, focus) => {
    if (!cells[t]) return;
    cells.forEach((cell, n) => { cell.tabIndex = n === t ? 0 : -1; cell.classList.toggle("shown", n === t); });
    detail.textContent = cells[t].getAttribute("aria-label");
    if (focus) cells[t].focus();
  };
  for (const event of ["pointerover", "focusin", "click"]) code.addEventListener(event, ({ target }) => look(cells.indexOf(target.closest("i")), event === "click"));
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 };
  code.addEventListener("keydown", event => {
    if (!(event.key in steps)) return;
    event.preventDefault();
    look(cells.indexOf(document.activeElement) + steps[event.key], true);
  });
  for (const [value, name] of [...said.layers.map((layer, n) => [n, layer.name]), ["bits", "bits"]]) {
    const button = make("button", name);
    Object.assign(button, { type: "button", value });
    button.addEventListener("click", () => paint(value));
    buttons.append(button);
  }
  for (const [group, what] of [[buttons, "What colours the text"], [code, "The text by token: arrow keys move"]]) {
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", what);
  }
  code.append(...cells);
  block.append(buttons, code, detail, below);
  paint(colouredBy in said.layers ? colouredBy : "bits");
  look(cells.length - 1);
  return block;
}
function expertsOf(layer, t) {
  const said = layer.experts[t].map(([e, weight]) => `expert ${e} ${weight.toFixed(2)}`).join(", ");
  return `${layer.name}: ${said || "no expert"}`;
}
let writing = null; // what stops it
async function goOn() {
  if (writing) { writing.abort(); return; }
  const mine = writing = new AbortController();
  $("on").textContent = "Stop";
  const wish = { ...typed(), ...chosen, tokens: WRITTEN, temperature: Number($("heat").value), seed: Math.floor(Math.random() * 2 ** 32) };
  try {
    const reply = await fetch("api/generate", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(wish), signal: mine.signal,
    });
    if (!reply.ok) throw new Error((await reply.json()).error);
    const lines = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = "", next; !(next = await lines.read()).done;) {
      const whole = (rest + next.value).split("\n");
      rest = whole.pop();
      $("text").value += whole.map(line => JSON.parse(line).text ?? "").join("");
      $("text").scrollTop = $("text").scrollHeight;
      ask();
    }
  } catch (error) { if (error.name !== "AbortError") complain(error.message); }
  if (writing === mine) writing = null;
  $("on").textContent = "Go on";
}
let rest;
function typedOn() { // what is typed stops what is written
  writing?.abort();
  clearTimeout(rest);
  rest = setTimeout(ask, 150);
}
$("text").addEventListener("input", typedOn);
$("on").addEventListener("click", goOn);
$("wipe").addEventListener("click", () => { $("text").value = ""; typedOn(); });
$("heat").addEventListener("input", () => { $("heat-now").textContent = $("heat").value; });
const BEGINNINGS = ["def ", "import os\n", "class Reader:\n    def __init__(self"];
function beginnings() {
  for (const text of BEGINNINGS) {
    const button = make("button", text.trim().split("\n")[0]);
    button.type = "button";
    button.setAttribute("aria-label", `Example: ${button.textContent}`);
    button.addEventListener("click", () => { $("text").value = text; typedOn(); });
    $("beginnings").append(button);
  }
}
