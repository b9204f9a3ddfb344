// Details of a token, by pointer or by arrow keys. All text is set as text, never as markup.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const detail = document.getElementById("detail");
const help = detail.querySelector("p");
let marked = null;

function tokenAt(chip) {
  // Tokens before this chip in its sample: a chip stands for one token, or for as many as data-n says.
  let at = 0;
  for (let before = chip.previousElementSibling; before; before = before.previousElementSibling) {
    at += Number(before.dataset.n || 1);
  }
  return at;
}

function range(values) {
  return values.length > 1 ? `${values[0]} to ${values[values.length - 1]}` : `${values[0]}`;
}

function describe(chip) {
  const sample = data.samples[chip.parentElement.dataset.k];
  const at = tokenAt(chip);
  const count = Number(chip.dataset.n || 1);
  const ids = sample.ids.slice(at, at + count);
  const positions = sample.positions.slice(at, at + count).map((p) => (Array.isArray(p) ? `(${p.join(", ")})` : p));
  const weight = sample.weights[at];
  const facts = [["sample", sample.id], ["token", `${range([...ids.keys()].map((k) => at + k + 1))} of ${sample.ids.length}`]];
  if (chip.dataset.image) facts.push(["image", chip.dataset.image]);
  facts.push([count > 1 && !chip.dataset.image ? "ids" : "id", chip.dataset.image ? `${ids[0]} x ${count}` : ids.join(" ")]);
  facts.push(["spelling", ids.slice(0, 4).filter((id, k) => ids.indexOf(id) === k).map((id) => data.vocabulary[id]).join(" ")]);
  facts.push(["position", range(positions)]);
  facts.push(["loss weight", weight ? `${weight.toPrecision(4)} (the step trains ${data.trained} tokens)` : "0 (not trained)"]);
  return facts;
}

function show(chip) {
  if (marked) marked.classList.remove("at");
  marked = chip;
  chip.classList.add("at");
  const list = document.createElement("dl");
  for (const [name, value] of describe(chip)) {
    const group = document.createElement("div");
    const term = document.createElement("dt");
    const what = document.createElement("dd");
    term.textContent = name;
    what.textContent = value;
    group.append(term, what);
    list.append(group);
  }
  detail.replaceChildren(list);
}

function chipOf(target) {
  const chip = target.closest ? target.closest(".tokens > span") : null;
  return chip && chip.parentElement.dataset.k !== undefined ? chip : null;
}

function step(box, key) {
  const chips = box.children;
  const now = marked && marked.parentElement === box ? marked : null;
  if (key === "Home") return chips[0];
  if (key === "End") return chips[chips.length - 1];
  if (!now) return chips[0];
  if (key === "ArrowRight") return now.nextElementSibling || now;
  if (key === "ArrowLeft") return now.previousElementSibling || now;
  // n: the next token that begins a trained stretch.
  let chip = now.nextElementSibling;
  while (chip && !(chip.classList.contains("t") && !chip.previousElementSibling.classList.contains("t"))) {
    chip = chip.nextElementSibling;
  }
  return chip || now;
}

document.addEventListener("pointerover", (event) => {
  const chip = chipOf(event.target);
  if (chip) show(chip);
});
document.addEventListener("click", (event) => {
  const chip = chipOf(event.target);
  if (chip) show(chip);
});
document.addEventListener("focusin", (event) => {
  if (event.target.matches(".tokens") && !(marked && marked.parentElement === event.target)) {
    if (event.target.firstElementChild) show(event.target.firstElementChild);
  }
});
document.addEventListener("keydown", (event) => {
  const box = event.target.closest && event.target.closest(".tokens");
  const isOurs = ["ArrowLeft", "ArrowRight", "Home", "End", "n"].includes(event.key);
  if (event.key === "Escape") {
    if (marked) marked.classList.remove("at");
    marked = null;
    detail.replaceChildren(help);
  } else if (box && isOurs && !event.ctrlKey && !event.altKey && !event.metaKey && box.children.length) {
    event.preventDefault();
    const chip = step(box, event.key);
    show(chip);
    chip.scrollIntoView({ block: "nearest" });
  }
});
