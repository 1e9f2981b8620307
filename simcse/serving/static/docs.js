// The interface, from its OpenAPI document: what each request takes and gives, and a place to try it.

import { call, made } from "./api.js";
import { startTheme } from "./theme.js";

let known;

const resolved = (schema) => (schema?.$ref ? known.components.schemas[schema.$ref.split("/").at(-1)] : schema ?? {});

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return [...new Set(schema.anyOf.map(typeOf))].join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items ?? {})}`;
  return schema.type ?? "any value";
}

function fields(schema) {
  const { properties = {}, required = [] } = resolved(schema);
  const table = made("table");
  for (const [name, about] of Object.entries(properties)) {
    const row = made("tr");
    const type = typeOf(about) + ("default" in about ? `, default ${JSON.stringify(about.default)}` : required.includes(name) ? "" : ", optional");
    row.append(made("td", "code", name), made("td", "", type), made("td", "", about.description ?? ""));
    table.append(row);
  }
  return table;
}

function example(schema) {
  const { properties = {} } = resolved(schema);
  const values = Object.entries(properties).map(([name, about]) => [name, about.examples?.[0] ?? about.default]);
  return Object.fromEntries(values.filter(([, value]) => value !== undefined && value !== null));
}

function tryIt(path, schema) {
  const box = made("div", "inside");
  box.style.padding = "0";
  const body = made("textarea", "code");
  body.setAttribute("aria-label", `Body of a request to ${path}`);
  if (schema) body.value = JSON.stringify(example(schema), null, 2);
  const send = made("button", "", "Send");
  send.type = "button";
  const answer = made("pre");
  answer.hidden = true;
  answer.tabIndex = 0;
  answer.setAttribute("aria-live", "polite");
  send.addEventListener("click", async () => {
    answer.hidden = false;
    try {
      answer.textContent = JSON.stringify(await call(path, schema ? JSON.parse(body.value) : undefined), null, 2).slice(0, 20000);
    } catch (error) {
      answer.textContent = `${error.status ?? ""} ${error.message}`.trim();
    }
  });
  box.append(...(schema ? [made("h3", "", "Try it"), body] : []), send, answer);
  return box;
}

function operation(path, method, about) {
  const details = made("details");
  const summary = made("summary");
  summary.append(made("span", "method code", method.toUpperCase()), made("span", "code", path), made("span", "hint", about.summary));
  const inside = made("div", "inside");
  const request = about.requestBody?.content["application/json"].schema;
  const answer = about.responses["200"]?.content?.["application/json"]?.schema;
  if (request) inside.append(made("h3", "", "Request"), fields(request));
  if (answer?.$ref) inside.append(made("h3", "", "Answer"), fields(answer));
  const refusals = Object.entries(about.responses).filter(([status]) => status >= 400);
  if (refusals.length) {
    const table = made("table");
    for (const [status, { description }] of refusals) {
      const row = made("tr");
      row.append(made("td", "code", status), made("td", "", description));
      table.append(row);
    }
    inside.append(made("h3", "", "Refusals, each with a line of detail"), table);
  }
  if (path !== "/metrics") inside.append(tryIt(path, request));
  details.append(summary, inside);
  return details;
}

startTheme(document.getElementById("theme"), () => {});
known = await call("/openapi.json");
document.getElementById("about").textContent = `${known.info.description} Bodies and answers are JSON.`;
document.getElementById("operations").append(
  ...Object.entries(known.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, about]) => operation(path, method, about))),
);
document.querySelector("details")?.setAttribute("open", "");
document.documentElement.dataset.ready = "true";
