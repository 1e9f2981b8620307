// What is served: facts about the index and its encoder.

import { call, made } from "./api.js";

const number = (value) => value.toLocaleString("en");

function bytes(value) {
  if (value === null) return "in memory";
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  for (; value >= 1024 && at < units.length - 1; at++) value /= 1024;
  return `${value < 10 && at ? value.toFixed(1) : Math.round(value)} ${units[at]}`;
}

function planned(plan) {
  if (plan.factory === null) return `exact search: ${plan.reason}`;
  const measured = `recall@10 ${plan.recall.toFixed(3)} on ${plan.measured_on}, ${plan.milliseconds.toFixed(2)} ms a query`;
  return `${plan.factory}: ${plan.reason}; ${measured}`;
}

const listed = (names) => names.join(", ") || "none";
const SHOWN = { count: number, deleted: number, parameters: number, generation: number, bytes, fields: listed, plan: planned };
const NAMED = { count: "texts", bytes: "on disk", fields: "metadata", deleted: "deleted", max_length: "longest input" };

function fill(list, facts) {
  list.replaceChildren(...Object.entries(facts).filter(([, value]) => value !== null).flatMap(([name, value]) => {
    const shown = SHOWN[name] ? SHOWN[name](value) : typeof value === "object" ? JSON.stringify(value) : String(value);
    const unit = name === "max_length" ? " tokens" : "";
    return [made("dt", "", NAMED[name] ?? name.replaceAll("_", " ")), made("dd", "", shown + unit)];
  }));
}

export async function showFacts() {
  const { index, encoder, version } = await call("/api/info");
  const named = index.count > 0 ? `Search ${index.name}` : encoder.name;
  document.getElementById("title").textContent = named;
  document.title = index.count > 0 ? `${index.name} – search by meaning` : named;
  fill(document.getElementById("index-facts"), index);
  fill(document.getElementById("encoder-facts"), { ...encoder, "simcse version": version });
  return index;
}
