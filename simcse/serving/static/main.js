// Puts the parts of the page together.

import { Refused } from "./api.js";
import { showFacts } from "./facts.js";
import { HeatMap } from "./heat.js";
import { CorpusMap } from "./map.js";
import { SearchBox } from "./search.js";
import { startTheme } from "./theme.js";

function tell(error) {
  if (error?.name === "AbortError") return;
  const place = document.getElementById("problem");
  place.hidden = false;
  place.textContent = error instanceof Refused ? error.message : `The page failed: ${error?.message ?? error}`;
}
addEventListener("unhandledrejection", (event) => tell(event.reason));

let map;
let heat;
startTheme(document.getElementById("theme"), () => {
  map?.recolour();
  heat?.recolour();
});
const index = await showFacts(); // the first request: asks for the token where one is needed
heat = new HeatMap();
heat.run();
if (index.count > 0) await startSearch();
else for (const part of document.querySelectorAll("#search, [href='#search'], #nothing")) part.hidden = part.id !== "nothing";
document.documentElement.dataset.ready = "true";

async function startSearch() {
  map = new CorpusMap({ pointed: (id) => search.light(id) });
  const search = new SearchBox({
    found: (query, hits) => map.light(query, hits).catch(tell),
    pointed: (id) => map.point(id),
  });
  search.offer(index.fields ?? []);
  if (document.activeElement === document.body) document.getElementById("query").focus({ preventScroll: true });
  await map.load();
  map.follow().catch(tell);

  // texts of the corpus, of a length that reads well as a question
  const short = map.texts().filter((text) => text.length >= 25 && text.length <= 75);
  search.suggest(Array.from({ length: Math.min(3, short.length) }, (_, i) => short[Math.floor((i * short.length) / 3)]));
}
