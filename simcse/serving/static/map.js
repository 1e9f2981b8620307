// The corpus on a plane: every text a dot, the hits of a search lit, the query a ring.

import { call } from "./api.js";
import { colour } from "./theme.js";

const MARGIN = 26; // pixels around the points
const NEAR = 14; // pixels from the pointer to a dot
const FARTHEST = 60; // times
const POLL = 1000; // milliseconds between two looks at how far a better map is
const TAU = 2 * Math.PI;

export class CorpusMap {
  // pointed(id or null) when a hit gets or loses the pointer
  constructor({ pointed }) {
    this.pointed = pointed;
    this.canvas = document.getElementById("map");
    this.tip = document.getElementById("map-tip");
    this.about = document.getElementById("map-about");
    this.points = { x: [], y: [], ids: [], texts: [], clusters: [] };
    this.hits = [];
    this.lit = ["", []];
    this.query = null;
    this.over = null;
    this.view = { scale: 1, x: 0, y: 0 }; // zoom, and where the middle lies, in units of the plane
    this.pointers = new Map();
    this.round = 0;
    this.listen();
    this.recolour();
  }

  async load() {
    this.points = await call("/api/map");
    const { x, y } = this.points;
    const span = (values) => values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
    const [[left, right], [low, high]] = x.length ? [span(x), span(y)] : [[-1, 1], [-1, 1]];
    this.middle = [(left + right) / 2, (low + high) / 2];
    this.extent = [Math.max(right - left, 1e-6), Math.max(high - low, 1e-6)];
    this.tell(this.points);
    this.reset();
  }

  // once a better map is there, show it
  async follow() {
    let { progress } = this.points;
    if (progress === null) return;
    while (progress !== null) {
      await new Promise((resolve) => setTimeout(resolve, POLL));
      ({ progress } = await call("/api/map/progress"));
      this.tell({ ...this.points, progress });
    }
    await this.load();
    await this.light(...this.lit);
  }

  tell({ x, of, method, shares, progress, note }) {
    const number = (n) => n.toLocaleString("en");
    const which = x.length < of ? `${number(x.length)} of ${number(of)} texts, drawn at random` : `${number(of)} texts`;
    const means = method === "t-SNE"
      ? "Near means similar; how far groups lie apart means little."
      : `Two axes hold ${Math.round(100 * (shares[0] + shares[1]))}\u00a0% of the variance.`;
    const more = progress !== null ? ` Bringing neighbours together: ${Math.round(100 * progress)}\u00a0% …` : note ? ` ${note}` : "";
    this.about.textContent = `${which}. ${means}${more}`;
    this.about.dataset.method = progress === null ? method : "";
  }

  texts() {
    return this.points.texts;
  }

  async light(query, hits) {
    this.lit = [query, hits];
    const round = ++this.round;
    if (!query) {
      this.hits = [];
      this.query = null;
      this.draw();
      return;
    }
    const placed = await call("/api/map/place", { ids: hits.map((hit) => hit.id), texts: [query] });
    if (round !== this.round) return; // a later search is under way
    const where = new Map(placed.ids.map((id, i) => [id, placed.positions[i]]));
    this.hits = hits.filter((hit) => where.has(hit.id)).map((hit, i) => ({ ...hit, at: where.get(hit.id), rank: i + 1 }));
    this.query = { text: query, at: placed.texts[0] };
    this.canvas.setAttribute("aria-label", `Map of the corpus; ${this.hits.length} hits are lit, listed under Results.`);
    this.draw();
  }

  point(id) {
    this.chosen = id;
    this.draw();
  }

  recolour() {
    this.colours = Object.fromEntries(["dot", "warm", "query", "ink", "surface", "sunken"].map((name) => [name, colour(name)]));
    this.draw();
  }

  reset() {
    this.view = { scale: 1, x: this.middle?.[0] ?? 0, y: this.middle?.[1] ?? 0 };
    this.draw();
  }

  // pixels a unit of the plane; both axes alike, so that distances can be compared
  unit() {
    if (!this.extent) return 1;
    const fit = Math.min((this.width - 2 * MARGIN) / this.extent[0], (this.height - 2 * MARGIN) / this.extent[1]);
    return Math.max(fit, 1) * this.view.scale;
  }

  toScreen([x, y]) {
    const unit = this.unit();
    return [this.width / 2 + (x - this.view.x) * unit, this.height / 2 - (y - this.view.y) * unit];
  }

  zoom(factor, px = this.width / 2, py = this.height / 2) {
    const before = this.unit();
    this.view.scale = Math.min(FARTHEST, Math.max(1, this.view.scale * factor));
    const after = this.unit();
    this.view.x += (px - this.width / 2) * (1 / before - 1 / after);
    this.view.y -= (py - this.height / 2) * (1 / before - 1 / after);
    this.draw();
  }

  pan(dx, dy) {
    this.view.x -= dx / this.unit();
    this.view.y += dy / this.unit();
    this.draw();
  }

  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.paint();
    });
  }

  paint() {
    const box = this.canvas.getBoundingClientRect();
    const ratio = devicePixelRatio || 1;
    [this.width, this.height] = [box.width, box.height];
    this.canvas.width = Math.round(box.width * ratio);
    this.canvas.height = Math.round(box.height * ratio);
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const { x, y } = this.points;
    const crowded = Math.min(1, Math.max(0.42, (900 / Math.max(x.length, 1)) * this.view.scale));
    const radius = Math.min(4.5, (x.length > 1500 ? 1.7 : 2.6) * this.view.scale ** 0.25);
    pen.fillStyle = this.colours.dot;
    pen.globalAlpha = this.hits.length ? crowded * 0.7 : crowded;
    for (let i = 0; i < x.length; i++) {
      const [px, py] = this.toScreen([x[i], y[i]]);
      if (px < -5 || py < -5 || px > this.width + 5 || py > this.height + 5) continue;
      pen.beginPath();
      pen.arc(px, py, radius, 0, TAU);
      pen.fill();
    }
    pen.globalAlpha = 1;
    this.paintNames(pen);
    this.paintSearch(pen);
    if (this.over) this.ring(pen, this.toScreen(this.over.at), 7, this.colours.ink, 1.5);
  }

  // names of clusters, those of many texts first; one that would lie on another is left out
  paintNames(pen) {
    pen.font = "600 12px system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.lineJoin = "round";
    pen.lineWidth = 4;
    const taken = [];
    for (const { x, y, name } of this.points.clusters.toSorted((a, b) => b.texts - a.texts)) {
      const [px, py] = this.toScreen([x, y]);
      const half = pen.measureText(name).width / 2 + 4;
      const left = Math.max(half, Math.min(this.width - half, px));
      if (px < 0 || px > this.width || py < 8 || py > this.height - 8) continue;
      if (taken.some(([qx, qy, other]) => Math.abs(qx - left) < half + other && Math.abs(qy - py) < 18)) continue;
      taken.push([left, py, half]);
      pen.strokeStyle = this.colours.sunken;
      pen.fillStyle = this.colours.ink;
      pen.strokeText(name, left, py);
      pen.fillText(name, left, py);
    }
  }

  paintSearch(pen) {
    for (const hit of this.hits.toReversed()) {
      const [px, py] = this.toScreen(hit.at);
      pen.beginPath();
      pen.arc(px, py, hit.id === this.chosen ? 8 : 5.5, 0, TAU);
      pen.fillStyle = this.colours.warm;
      pen.strokeStyle = this.colours.sunken;
      pen.lineWidth = 2;
      pen.fill();
      pen.stroke();
      if (hit.id === this.chosen) this.ring(pen, [px, py], 12, this.colours.warm, 2);
    }
    if (this.query) this.ring(pen, this.toScreen(this.query.at), 9, this.colours.query, 3);
  }

  ring(pen, [px, py], radius, stroke, width) {
    pen.beginPath();
    pen.arc(px, py, radius, 0, TAU);
    pen.strokeStyle = stroke;
    pen.lineWidth = width;
    pen.stroke();
  }

  // hits and the query first, for they lie on top
  nearest(px, py) {
    let best = null;
    let least = NEAR ** 2;
    const consider = (at, text, id, rank) => {
      const [qx, qy] = this.toScreen(at);
      const distance = (px - qx) ** 2 + (py - qy) ** 2;
      if (distance < least) [best, least] = [{ at, text, id, rank }, distance];
    };
    for (const hit of this.hits) consider(hit.at, hit.text, hit.id, hit.rank);
    if (this.query) consider(this.query.at, `Query: ${this.query.text}`, null);
    if (best) return best;
    const { x, y, ids, texts } = this.points;
    for (let i = 0; i < x.length; i++) consider([x[i], y[i]], texts[i], ids[i]);
    return best;
  }

  hover(px, py) {
    this.over = this.nearest(px, py);
    this.tip.hidden = !this.over;
    if (this.over) {
      const score = this.hits.find((hit) => hit.id === this.over.id)?.score;
      this.tip.textContent = score === undefined ? this.over.text : `${this.over.rank}. (${score.toFixed(2)}) ${this.over.text}`;
      const [qx, qy] = this.toScreen(this.over.at);
      const { offsetWidth: w, offsetHeight: h } = this.tip;
      this.tip.style.left = `${Math.max(6, Math.min(this.width - w - 6, qx - w / 2))}px`;
      this.tip.style.top = `${qy - h - 14 > 6 ? qy - h - 14 : qy + 16}px`;
    }
    this.pointed(this.over?.rank ? this.over.id : null);
    this.draw();
  }

  leave() {
    this.over = null;
    this.tip.hidden = true;
    this.pointed(null);
    this.draw();
  }

  move(event) {
    const box = this.canvas.getBoundingClientRect();
    const now = [event.clientX - box.left, event.clientY - box.top];
    const before = this.pointers.get(event.pointerId);
    if (before === undefined) {
      this.hover(...now);
      return;
    }
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const apart = ([ax, ay]) => Math.hypot(ax - other[0], ay - other[1]) || 1;
      this.zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    } else {
      this.pan(now[0] - before[0], now[1] - before[1]);
    }
    this.pointers.set(event.pointerId, now);
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerdown", (event) => {
      const box = canvas.getBoundingClientRect();
      this.pointers.set(event.pointerId, [event.clientX - box.left, event.clientY - box.top]);
      canvas.setPointerCapture(event.pointerId);
      this.hover(event.clientX - box.left, event.clientY - box.top);
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", () => this.leave());
    canvas.addEventListener("wheel", (event) => {
      // a plain wheel scrolls the page once everything is shown
      if (this.view.scale === 1 && event.deltaY > 0) return;
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
    document.getElementById("zoom-in").addEventListener("click", () => this.zoom(1.5));
    document.getElementById("zoom-out").addEventListener("click", () => this.zoom(1 / 1.5));
    document.getElementById("zoom-reset").addEventListener("click", () => this.reset());
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  key(event) {
    const step = 40;
    const actions = {
      "+": () => this.zoom(1.3), "=": () => this.zoom(1.3), "-": () => this.zoom(1 / 1.3), 0: () => this.reset(),
      ArrowLeft: () => this.pan(step, 0), ArrowRight: () => this.pan(-step, 0),
      ArrowUp: () => this.pan(0, step), ArrowDown: () => this.pan(0, -step),
    };
    if (!actions[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    actions[event.key]();
  }
}
