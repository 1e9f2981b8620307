// The interface, from its OpenAPI document, by Swagger UI.

import { call, tokenHeaders } from "./api.js";
import { isDark, startTheme } from "./theme.js";

const HOST = /http:[/]{2}localhost:8000/g; // in the lines to copy: another name for this server

startTheme(document.getElementById("theme"), () => document.documentElement.classList.toggle("dark-mode", isDark()));
const known = JSON.parse(JSON.stringify(await call("/openapi.json")).replace(HOST, location.origin));
SwaggerUIBundle({
  spec: known,
  domNode: document.getElementById("swagger"),
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  defaultModelExpandDepth: 9,
  defaultModelsExpandDepth: 0,
  validatorUrl: null, // it is that of another server
  requestInterceptor: (request) => Object.assign(request, { headers: { ...request.headers, ...tokenHeaders() } }),
  onComplete: () => (document.documentElement.dataset.ready = "true"),
});
