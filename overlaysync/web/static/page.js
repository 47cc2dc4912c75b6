// Keeps the page as the node is: one event stream says that something has changed, the changed parts are
// fetched, and put in place without touching what is the same. Without this file the page can be read as well.
import { Idiomorph } from "./idiomorph/idiomorph.esm.js";

const FRAME_MS = 10; // of work at a time, so that scrolling and typing stay smooth
const lost = document.getElementById("lost");
const own = document.querySelector("main[data-self]"); // a page that is fetched again as a whole
let version = document.body.dataset.version;
let seen = new Date();
let source = null;
let busy = false;
let again = false;

const pause = () => new Promise((resolve) => requestAnimationFrame(resolve));

async function refresh() {
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  try {
    do {
      again = false;
      const answer = await fetch(own ? location.href : `parts?since=${version}`);
      if (!answer.ok) throw new Error(answer.statusText);
      await put(await answer.text());
      version = answer.headers.get("Overlaysync-Version") ?? version;
      seen = new Date();
    } while (again);
  } catch {
    again = false;
  } finally {
    busy = false;
  }
}

async function put(text) {
  const parts = new DOMParser().parseFromString(text, "text/html");
  let since = performance.now();
  for (const part of own ? [parts.getElementById(own.id)] : [...parts.body.children]) {
    const there = document.getElementById(part.id);
    if (there) Idiomorph.morph(there, part, { morphStyle: "outerHTML", ignoreActiveValue: true });
    if (performance.now() - since > FRAME_MS) {
      await pause();
      since = performance.now();
    }
  }
}

function listen() {
  source = new EventSource(own ? "../events" : "events");
  source.addEventListener("changed", (event) => {
    lost.hidden = true;
    document.body.classList.remove("stale");
    if (own || event.data !== version) refresh();
  });
  source.addEventListener("open", () => (seen = new Date()));
  source.addEventListener("error", () => {
    lost.textContent = document.body.dataset.lost.replace("{time}", seen.toLocaleTimeString());
    lost.hidden = false;
    document.body.classList.add("stale");
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  });
}

// A page that nobody sees costs nothing.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) source?.close();
  else if (source?.readyState === EventSource.CLOSED) listen();
});
if (own || version) listen();
