// Search as you type: one request at a time counts, the latest.

import { call, debounced, made, Refused } from "./api.js";

const PAUSE = 140; // milliseconds without a key

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
    this.minScore = document.getElementById("min-score");
    this.minScoreValue = document.getElementById("min-score-value");
    const later = debounced(PAUSE, () => this.run());
    this.field.addEventListener("input", later);
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
    const asked = new URLSearchParams(location.search).get("q");
    if (asked) this.ask(asked);
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

  async run() {
    const query = this.field.value.trim();
    this.pending?.abort();
    history.replaceState(null, "", query ? `?q=${encodeURIComponent(query)}` : location.pathname);
    this.welcome.hidden = query !== "";
    if (!query) {
      this.status.textContent = "";
      this.show("", []);
      return;
    }
    const pending = (this.pending = new AbortController());
    this.list.classList.add("old");
    const began = performance.now();
    try {
      const answer = await call("/api/search", { query, top_k: Number(this.topK.value), min_score: this.least() }, pending.signal);
      const hits = answer.results[0].hits;
      this.show(query, hits);
      const count = hits.length === 1 ? "1 hit" : `${hits.length} hits`;
      const best = hits.length ? `, the best with ${hits[0].score.toFixed(2)}` : "; a lower least score may give some";
      this.status.textContent = `${count}${best} (${Math.max(1, Math.round(performance.now() - began))} ms)`;
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Refused)) throw error;
      if (error.status === 429) setTimeout(() => pending === this.pending && this.run(), 1000);
      this.status.textContent = error.status === 429 ? "The server is busy; trying again …" : error.message;
    } finally {
      if (pending === this.pending) this.list.classList.remove("old");
    }
  }

  show(query, hits) {
    this.list.replaceChildren(...hits.map((hit, index) => this.item(hit, index)));
    this.found(query, hits);
  }

  item(hit, index) {
    const item = made("li", "hit");
    item.tabIndex = index === 0 ? 0 : -1;
    item.dataset.id = JSON.stringify(hit.id);
    const bar = made("span", "bar");
    bar.setAttribute("aria-hidden", "true");
    const fill = made("i");
    fill.style.width = `${Math.max(0, Math.min(1, hit.score)) * 100}%`;
    bar.append(fill);
    const score = made("span", "score", hit.score.toFixed(2));
    score.title = `cosine ${hit.score}`;
    score.setAttribute("aria-label", `score ${hit.score.toFixed(2)}`);
    const more = made("div", "more");
    more.append(score, bar, made("span", "tag", `id ${hit.id}`));
    for (const [name, value] of Object.entries(hit.metadata)) {
      more.append(made("span", "tag", `${name}: ${typeof value === "object" ? JSON.stringify(value) : value}`));
    }
    item.append(made("span", "rank", `${index + 1}`), made("p", "", hit.text), more);
    for (const [event, id] of [["pointerenter", hit.id], ["focus", hit.id], ["pointerleave", null], ["blur", null]]) {
      item.addEventListener(event, () => this.pointed(id));
    }
    return item;
  }

  light(id) {
    for (const item of this.list.children) item.classList.toggle("lit", id !== null && item.dataset.id === JSON.stringify(id));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);
    const items = [...this.list.children];
    const at = items.indexOf(document.activeElement);
    const inList = at >= 0 || document.activeElement === this.field;
    if (event.key === "/" && !typing) {
      this.field.focus();
      this.field.select();
    } else if (event.key === "Escape" && inList) {
      this.field.value = "";
      this.field.focus();
      this.run();
    } else if (event.key === "ArrowDown" && inList && at + 1 < items.length) {
      items[at + 1].focus();
    } else if (event.key === "ArrowUp" && at >= 0) {
      (at === 0 ? this.field : items[at - 1]).focus();
    } else {
      return;
    }
    event.preventDefault();
  }
}
