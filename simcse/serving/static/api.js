// Requests to this server. A token, where one is needed, is asked for once and lives as long as the tab.

const TOKEN = "simcse-token";
let asking = null;

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export function tokenHeaders() {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { authorization: `Bearer ${token}` } : {};
}

export async function call(path, body, signal) {
  for (;;) {
    const headers = tokenHeaders();
    if (body !== undefined) headers["content-type"] = "application/json";
    const options = { method: body === undefined ? "GET" : "POST", headers, signal };
    if (body !== undefined) options.body = JSON.stringify(body);
    let response;
    try {
      response = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused(0, "The server does not answer. Is it still running?");
    }
    if (response.status === 401) {
      asking ??= askForToken(Boolean(headers.authorization)).finally(() => (asking = null));
      await asking;
      continue;
    }
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Refused(response.status, answer.detail ?? `The server answered ${response.status}.`);
    return answer;
  }
}

function askForToken(wrong) {
  const dialog = document.getElementById("token-dialog");
  const field = document.getElementById("token");
  const problem = document.getElementById("token-problem");
  problem.hidden = !wrong;
  problem.textContent = "That was not the token.";
  field.value = "";
  if (!dialog.open) dialog.showModal();
  field.focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      // header values are of bytes: what does not fit is no token
      sessionStorage.setItem(TOKEN, field.value.replace(/[^\x21-\x7e]/g, "?"));
      resolve();
    }, { once: true });
  });
}

export function debounced(wait, action) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...given), wait);
  };
}

export function made(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== "") element.textContent = text;
  return element;
}
