// A hit as it is shown: its text on four lines until it is opened, the words of the query marked, its metadata.

import { made } from "./api.js";

const SHOWN_TAGS = 6; // metadata of a hit that is not open
const COPIED = 1500; // milliseconds that a button says so
// words that are in any text mark nothing
const STOP = new Set(("a an and are as at be been but by can did do does for from had has have he her his how i if in is it its me my " +
  "no not of on or our she so than that the their them they this to was we were what when where which who why will with you your").split(" "));

const segmenter = new Intl.Segmenter(undefined, { granularity: "word" });
const folded = (word) => word.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

// the words of a query to look for in texts, without case and accents
export function wordsOf(query) {
  const words = [...segmenter.segment(query)].filter((one) => one.isWordLike).map((one) => folded(one.segment));
  return new Set(words.filter((word) => !STOP.has(word)));
}

// whether a word is one of these, or has an ending of a letter or two after it, as rivers has
function among(words, segment) {
  const word = folded(segment);
  return words.has(word) || [1, 2].some((ending) => word.length - ending >= 4 && words.has(word.slice(0, -ending)));
}

// the text with these words in <mark>; a text is only ever a text node
function marked(text, words) {
  const all = document.createDocumentFragment();
  if (!words.size) {
    all.append(text);
    return all;
  }
  let plain = "";
  for (const { segment, isWordLike } of segmenter.segment(text)) {
    if (!isWordLike || !among(words, segment)) {
      plain += segment;
      continue;
    }
    all.append(plain, made("mark", "", segment));
    plain = "";
  }
  all.append(plain);
  return all;
}

function tag(name, value) {
  const shown = typeof value === "object" ? JSON.stringify(value) : String(value);
  if (typeof value !== "string" || !/^https?:[/]{2}\S+$/.test(value)) return made("span", "tag", `${name}: ${shown}`);
  const link = made("a", "tag", `${name}: ${shown}`);
  [link.href, link.target, link.rel] = [value, "_blank", "noopener noreferrer"];
  return link;
}

function scoreOf(hit) {
  const bar = made("span", "bar");
  bar.setAttribute("aria-hidden", "true");
  const fill = made("i");
  fill.style.width = `${Math.max(0, Math.min(1, hit.score)) * 100}%`;
  bar.append(fill);
  const score = made("span", "score", hit.score.toFixed(2));
  score.title = `cosine ${hit.score}`;
  score.setAttribute("aria-label", `score ${hit.score.toFixed(2)}`);
  return [score, bar];
}

export function hitItem(hit, index, words) {
  const item = made("li", "hit");
  item.dataset.id = JSON.stringify(hit.id);
  const text = made("p");
  text.id = `hit-${index}`;
  text.append(marked(hit.text, words));
  const tags = Object.entries(hit.metadata).map(([name, value]) => tag(name, value));
  tags.slice(SHOWN_TAGS).forEach((one) => one.classList.add("extra"));
  const open = made("button", "quiet open", "Show all");
  open.setAttribute("aria-controls", text.id);
  open.addEventListener("click", () => toggle(item));
  const copy = made("button", "quiet copy", "Copy");
  copy.addEventListener("click", () => copyText(item, hit.text));
  for (const button of [open, copy]) {
    button.type = "button";
    button.setAttribute("aria-describedby", text.id);
  }
  const actions = made("span", "actions");
  actions.append(open, copy);
  const more = made("div", "more");
  more.append(...scoreOf(hit), made("span", "tag", `id ${hit.id}`), ...tags, actions);
  item.append(made("span", "rank", `${index + 1}`), text, more);
  show(item, false);
  return item;
}

export function toggle(item) {
  show(item, !item.classList.contains("opened"));
}

function show(item, opened) {
  item.classList.toggle("opened", opened);
  const button = item.querySelector(".open");
  button.setAttribute("aria-expanded", String(opened));
  button.textContent = opened ? "Show less" : "Show all";
}

// whether there is more than is shown, which depends on the width
export function measure(item) {
  if (item.classList.contains("opened")) return;
  const cut = [...item.querySelectorAll("p, .tag")].some((one) => one.scrollHeight > one.clientHeight + 2 || one.scrollWidth > one.clientWidth + 1);
  item.classList.toggle("long", cut || item.querySelector(".extra") !== null);
}

// Tab reaches the buttons and links of one hit alone: that with the focus
export function reachable(item, is) {
  item.tabIndex = is ? 0 : -1;
  for (const control of item.querySelectorAll("button, a")) control.tabIndex = is ? 0 : -1;
}

async function copyText(item, text) {
  const button = item.querySelector(".copy");
  const done = await navigator.clipboard?.writeText(text).then(() => true, () => false) || copyBySelection(text);
  const said = done ? "Copied" : "Not allowed";
  button.textContent = document.getElementById("said").textContent = said;
  setTimeout(() => {
    button.textContent = "Copy";
    document.getElementById("said").textContent = "";
  }, COPIED);
}

// where the page is not served by HTTPS or this machine, browsers have no clipboard but that of the selection
function copyBySelection(text) {
  const before = document.activeElement;
  const field = made("textarea", "visually-hidden");
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  before.focus();
  return done;
}
