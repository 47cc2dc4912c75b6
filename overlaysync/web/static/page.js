// Keeps the page as the node is: one event stream says that something has changed, the changed parts are
// fetched, and put in place without touching what is the same. What is asked before an action is shown in a dialog
// above the page. Without this file the page can be read and used as well.
import { Idiomorph } from "./idiomorph/idiomorph.esm.js";

const FRAME_MS = 10; // of work at a time, so that scrolling and typing stay smooth
const lost = document.getElementById("lost");
const view = location.search.slice(1); // which rows are shown
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
      const answer = await fetch(own ? location.href : `parts?since=${version}&${view}`);
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
  source = new EventSource(own ? "../events" : `events?${view}`);
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

// -- the dialog: a form of the node's, as it would be shown on a page of its own --------------------------------

const dialog = document.createElement("dialog");
let opener = null;

async function ask(link) {
  const answer = await fetch(link.href);
  const main = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
  const form = main?.querySelector("form");
  if (!answer.ok || !form) {
    location.href = link.href; // the page says why
    return;
  }
  form.action = new URL(form.getAttribute("action"), answer.url).href;
  main.querySelector(".back")?.remove();
  main.querySelector("h1").id = "ask-title";
  dialog.setAttribute("aria-labelledby", "ask-title");
  dialog.replaceChildren(...main.childNodes);
  opener = link.getAttribute("href");
  if (!dialog.isConnected) document.body.append(dialog);
  if (!dialog.open) dialog.showModal(); // it was clicked twice
  (form.querySelector("input:not([type=hidden])") ?? dialog.querySelector("[data-cancel]")).focus();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-ask], a[data-cancel]");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  if (link.dataset.ask !== undefined) {
    event.preventDefault();
    ask(link).catch(() => (location.href = link.href));
  } else if (dialog.open) {
    event.preventDefault();
    dialog.close();
  }
});

// The link may be another element by now: the page went on behind the dialog.
dialog.addEventListener("close", () => {
  const links = [...document.querySelectorAll("a[data-ask]")];
  links.find((link) => link.getAttribute("href") === opener)?.focus();
});

// Past its last element Tab would leave the dialog for the browser's own bars.
dialog.addEventListener("keydown", (event) => {
  if (event.key !== "Tab") return;
  const inside = [...dialog.querySelectorAll("a[href], button, input:not([type=hidden])")];
  const edge = event.shiftKey ? inside[0] : inside.at(-1);
  if (document.activeElement !== edge) return;
  event.preventDefault();
  (event.shiftKey ? inside.at(-1) : inside[0]).focus();
});

// A page that nobody sees costs nothing.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) source?.close();
  else if (source?.readyState === EventSource.CLOSED) listen();
});
if (own || version) listen();
