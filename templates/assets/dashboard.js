// Keeps an open page current: when the node says "look", the same page is fetched again and the parts that are marked
// data-live are swapped. Nothing is computed here, and without this script every page is whole, only still.
"use strict";

const connection = document.getElementById("connection");
const pause = document.getElementById("pause");
let stream = null;
let paused = false;
let fetching = false;
let again = false;

// Without the name and password that an address may carry: those cannot be fetched.
function here(path) {
  return new URL(path, location.origin).href;
}

function say(state, words) {
  document.documentElement.dataset.connection = state;
  if (connection.textContent !== words) connection.textContent = words;
}

// Where the keyboard is: the element that stands at the same place in the new part.
function pathTo(element, root) {
  const path = [];
  for (let at = element; at !== root; at = at.parentElement) {
    path.unshift(Array.prototype.indexOf.call(at.parentElement.children, at));
  }
  return path;
}

function follow(path, root) {
  return path.reduce((at, place) => at && at.children[place], root);
}

function swap(part, fresh) {
  if (part.innerHTML === fresh.innerHTML) return;
  const focused = part.contains(document.activeElement) ? document.activeElement : null;
  const path = focused && focused !== part ? pathTo(focused, part) : null;
  const href = focused && focused.getAttribute("href");
  const scrolled = Array.from(part.querySelectorAll(".scroll"), (box) => box.scrollLeft);
  part.innerHTML = fresh.innerHTML;
  part.querySelectorAll(".scroll").forEach((box, at) => { box.scrollLeft = scrolled[at] || 0; });
  if (!path) return;
  const same = href && Array.from(part.querySelectorAll("a")).find((link) => link.getAttribute("href") === href);
  const target = same || follow(path, part);
  if (target) target.focus({ preventScroll: true });
}

// The slider ends at the present, and stands there as long as the drawing does.
function advance(fresh) {
  const slider = document.querySelector("form[data-scrub] input[type=range]");
  const next = fresh.querySelector("form[data-scrub] input[type=range]");
  if (!slider || !next || document.activeElement === slider) return;
  slider.min = next.min;
  slider.max = next.max;
  slider.value = next.value;
}

async function look() {
  if (paused || document.hidden) return;
  if (fetching) { again = true; return; }
  fetching = true;
  try {
    const answer = await fetch(here(location.pathname + location.search), { headers: { accept: "text/html" }, cache: "no-store" });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!paused) {
      for (const part of document.querySelectorAll("[data-live]")) {
        const next = fresh.getElementById(part.id);
        if (next) swap(part, next);
      }
      advance(fresh);
      say("live", "live");
    }
  } catch {
    lost();
  } finally {
    fetching = false;
    if (again) { again = false; look(); }
  }
}

function lost() {
  if (!paused) say("lost", "this node does not answer: what you see is old");
}

function open() {
  if (stream || document.hidden) return;
  stream = new EventSource(here("/live"));
  stream.addEventListener("look", look);
  stream.onerror = () => {
    lost();
    // A refusal ends the stream for good; a lost connection is tried again by the browser itself.
    if (stream && stream.readyState === EventSource.CLOSED) {
      stream = null;
      setTimeout(open, 5000);
    }
  };
}

function close() {
  if (stream) stream.close();
  stream = null;
}

// A browser keeps few connections to one host: a page that nobody sees gives its own back.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) close(); else { open(); look(); }
});

pause.hidden = false;
pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
  pause.textContent = paused ? "Go on" : "Pause";
  if (paused) say("paused", "paused"); else look();
});

// Where there is less room than the drawing takes, what is newest is seen first.
for (const box of document.querySelectorAll(".scroll[data-end]")) box.scrollLeft = box.scrollWidth;

// Scrubbing: the drawing follows the slider.
const scrub = document.querySelector("form[data-scrub]");
if (scrub) {
  let timer = 0;
  const move = () => {
    const chosen = new URLSearchParams(new FormData(scrub));
    const slider = scrub.elements.to;
    if (slider.value === slider.max) chosen.delete("to");
    history.replaceState(null, "", scrub.getAttribute("action") + "?" + chosen);
    if (paused) pause.click(); else look();
  };
  scrub.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(move, 120); });
  scrub.addEventListener("submit", (event) => { event.preventDefault(); move(); });
}

open();
