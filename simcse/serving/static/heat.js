// The similarity of pasted sentences as a table of colours and numbers.

import { call, debounced, made, Refused } from "./api.js";

const MOST = 24; // sentences
const EXAMPLE = [
  "A man is playing the guitar.",
  "Someone makes music on a stringed instrument.",
  "The orchestra tunes before the concert.",
  "Heavy rain flooded the streets last night.",
  "After the storm the roads were under water.",
];

export class HeatMap {
  constructor() {
    this.field = document.getElementById("sentences");
    this.table = document.getElementById("heat");
    this.about = document.getElementById("heat-about");
    this.field.value = EXAMPLE.join("\n");
    this.field.addEventListener("input", debounced(300, () => this.run()));
  }

  async run() {
    const all = this.field.value.split("\n").map((line) => line.trim()).filter(Boolean);
    const lines = all.slice(0, MOST);
    this.pending?.abort();
    if (lines.length < 2) {
      this.table.replaceChildren();
      this.about.textContent = "Two sentences or more make a table.";
      return;
    }
    const pending = (this.pending = new AbortController());
    try {
      const { scores } = await call("/api/similarity", { a: lines }, pending.signal);
      this.show(lines, scores);
      this.rest = all.length > MOST ? `The first ${MOST} of ${all.length} sentences. ` : "";
      this.about.textContent = this.rest + this.closest(lines, scores);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof Refused)) throw error;
      this.about.textContent = error.message;
    }
  }

  // the ink that can be read on each cell, which differs between light and dark
  recolour() {
    for (const cell of this.table.querySelectorAll("tbody td")) {
      const lightness = Number(/oklab\(([\d.]+)/.exec(getComputedStyle(cell).backgroundColor)?.[1] ?? 1);
      cell.style.color = lightness > 0.6 ? "#1c2024" : "#ffffff";
    }
  }

  closest(lines, scores) {
    let best = [0, 1];
    scores.forEach((row, i) => row.forEach((score, j) => {
      if (j > i && score > scores[best[0]][best[1]]) best = [i, j];
    }));
    const [i, j] = best;
    return `Closest: ${i + 1} and ${j + 1} with ${scores[i][j].toFixed(2)}.`;
  }

  show(lines, scores) {
    const head = made("thead");
    const top = made("tr");
    top.append(made("td"), ...lines.map((line, i) => this.header(`${i + 1}`, "col", line)));
    top.firstChild.style.background = "none";
    head.append(top);
    const body = made("tbody");
    scores.forEach((row, i) => {
      const line = made("tr");
      line.append(this.header(`${i + 1}  ${lines[i]}`, "row", lines[i]), ...row.map((score, j) => this.cell(score, i, j, lines)));
      body.append(line);
    });
    this.table.replaceChildren(head, body);
    this.recolour();
  }

  header(text, scope, title) {
    const header = made("th", "", text);
    header.scope = scope;
    header.title = title;
    return header;
  }

  cell(score, i, j, lines) {
    const cell = made("td", "", score.toFixed(2));
    const share = Math.round(Math.max(0, Math.min(1, score)) * 100);
    cell.style.background = `color-mix(in oklab, var(--accent) ${share}%, var(--sunken))`;
    cell.addEventListener("pointerenter", () => {
      this.about.textContent = `${score.toFixed(3)}: “${lines[i]}” and “${lines[j]}”`;
    });
    return cell;
  }
}
