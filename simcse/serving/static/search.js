// Search as you type: one request at a time counts, the latest.

import { call, debounced, made, Refused } from "./api.js";
import { FilterError, parseFilter } from "./filter.js";
import { hitItem, measure, reachable, toggle, wordsOf } from "./hit.js";

const PAUSE = 140; // milliseconds without a key
const LONG_PAUSE = 600; // in a filter, which is wrong until it is complete

export class SearchBox {
  // found(query, hits) after each answer; pointed(id or null) when a hit gets or loses the pointer or focus
  constructor({ found, pointed }) {
    this.found = found;
    this.pointed = pointed;
    this.field = document.getElementById("query");
    this.list = document.getElementById("results");
    this.status = document.getElementById("status");
    this.welcome = document.getElementById("welcome");
    this.topK = document.getElementById("top-k");
    this.where = document.getElementById("where");
    this.whereProblem = document.getElementById("where-problem");
    this.minScore = document.getElementById("min-score");
    this.minScoreValue = document.getElementById("min-score-value");
    const later = debounced(PAUSE, () => this.run());
    this.field.addEventListener("input", later);
    this.where.addEventListener("input", debounced(LONG_PAUSE, () => this.run()));
    this.topK.addEventListener("change", () => this.run());
    this.minScore.addEventListener("input", () => {
      this.minScoreValue.textContent = this.least() === null ? "any" : this.least().toFixed(2);
      later();
    });
    document.getElementById("search-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    document.addEventListener("keydown", (event) => this.key(event));
    this.list.addEventListener("focusin", (event) => this.rove(event.target.closest(".hit")));
    new ResizeObserver(() => this.measure()).observe(this.list);
    const asked = new URLSearchParams(location.search);
    this.where.value = asked.get("where") ?? "";
    if (asked.get("q")) this.ask(asked.get("q"));
  }

  // names of the metadata that a filter can ask for
  offer(fields) {
    document.getElementById("filter").hidden = fields.length === 0;
    this.where.placeholder = `${fields[0]}=… (fields: ${fields.join(", ")})`;
  }

  least() {
    return Number(this.minScore.value) === 0 ? null : Number(this.minScore.value);
  }

  ask(query) {
    this.field.value = query;
    this.field.focus();
    this.run();
  }

  suggest(texts) {
    const list = document.getElementById("examples");
    list.replaceChildren(...texts.map((text) => {
      const item = made("li");
      const button = made("button", "", text);
      button.type = "button";
      button.addEventListener("click", () => this.ask(text));
      item.append(button);
      return item;
    }));
  }

  // what the filter says, or null once its fault is shown
  filter() {
    try {
      const where = parseFilter(this.where.value);
      this.complain("");
      return where;
    } catch (error) {
      if (!(error instanceof FilterError)) throw error;
      this.complain(error.message);
      return null;
    }
  }

  complain(problem) {
    this.whereProblem.textContent = problem;
    this.whereProblem.hidden = problem === "";
    if (problem) this.where.setAttribute("aria-invalid", "true");
    else this.where.removeAttribute("aria-invalid");
  }

  address(query) {
    const asked = new URLSearchParams({ q: query, where: this.where.value.trim() });
    for (const [name, value] of [...asked]) if (!value) asked.delete(name);
    return asked.size ? `?${asked}` : location.pathname;
  }

  async run() {
    const query = this.field.value.trim();
    this.pending?.abort();
    history.replaceState(null, "", this.address(query));
    const where = this.filter();
    this.welcome.hidden = query !== "";
    if (!query || where === null) {
      this.list.classList.toggle("old", where === null);
      this.status.textContent = "";
      if (!query) this.show("", []);
      return;
    }
    const pending = (this.pending = new AbortController());
    this.list.classList.add("old");
    const began = performance.now();
    try {
      const wanted = { query, where, top_k: Number(this.topK.value), min_score: this.least() };
      const { hits } = (await call("/api/search", wanted, pending.signal)).results[0];
      this.show(query, hits);
      this.tell(hits, performance.now() - began);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Refused)) throw error;
      this.refused(error, pending);
    } finally {
      if (pending === this.pending) this.list.classList.remove("old");
    }
  }

  tell(hits, milliseconds) {
    const count = hits.length === 1 ? "1 hit" : `${hits.length} hits`;
    const why = this.least() !== null ? "; a lower least score may give some" : this.where.value.trim() ? "; no text fits the filter" : "";
    const best = hits.length ? `, the best with ${hits[0].score.toFixed(2)}` : why;
    this.status.textContent = `${count}${best} (${Math.max(1, Math.round(milliseconds))} ms)`;
  }

  refused(error, pending) {
    const ofFilter = /^where\b[.:]? ?/.exec(error.message);
    if (error.status === 422 && ofFilter) {
      this.complain(error.message.slice(ofFilter[0].length));
      this.status.textContent = "";
      return;
    }
    if (error.status === 429) setTimeout(() => pending === this.pending && this.run(), 1000);
    this.status.textContent = error.status === 429 ? "The server is busy; trying again …" : error.message;
  }

  show(query, hits) {
    const words = wordsOf(query);
    const items = hits.map((hit, index) => hitItem(hit, index, words));
    items.forEach((item, index) => {
      for (const [event, id] of [["pointerenter", hits[index].id], ["focusin", hits[index].id], ["pointerleave", null], ["focusout", null]]) {
        item.addEventListener(event, () => this.pointed(id));
      }
    });
    this.list.replaceChildren(...items);
    this.rove(items[0]);
    this.measure();
    this.found(query, hits);
  }

  measure() {
    for (const item of this.list.children) measure(item);
  }

  rove(current) {
    for (const item of this.list.children) reachable(item, item === current);
  }

  light(id) {
    for (const item of this.list.children) item.classList.toggle("lit", id !== null && item.dataset.id === JSON.stringify(id));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const focused = document.activeElement;
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(focused.tagName);
    if (event.key === "/" && !typing) {
      this.field.focus();
      this.field.select();
    } else if (!this.move(event.key, focused)) {
      return;
    }
    event.preventDefault();
  }

  // whether the key meant something in the field or the list
  move(key, focused) {
    const items = [...this.list.children];
    const at = items.indexOf(focused.closest(".hit"));
    if (at < 0 && focused !== this.field) return false;
    const target = { ArrowDown: items[at + 1], ArrowUp: at === 0 ? this.field : items[at - 1], Home: items[0], End: items.at(-1) }[key];
    if (key === "Escape") {
      this.field.value = "";
      this.field.focus();
      this.run();
    } else if (target && (at >= 0 || key === "ArrowDown")) {
      target.focus();
    } else if (key === "Enter" && focused === items[at]) {
      toggle(focused);
    } else if (key === "c" && at >= 0) {
      items[at].querySelector(".copy").click();
    } else {
      return false;
    }
    return true;
  }
}
