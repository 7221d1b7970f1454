// Keeps a page current: when the collector says that something changed, the page is fetched again, and of its live part
// only what differs is put in place, so that focus, selection and what was opened stay. The server has escaped everything;
// nothing is put together here but text.
"use strict";
(() => {
  const status = document.getElementById("status");
  const part = document.getElementById("live");
  // The stream says at most so often that something changed, however much it is.
  const EVERY = 1000;
  // What only heartbeats changed is fetched this late; what time alone changes, as silence, each half minute.
  const BEATS = 5000, TIME = 30000;
  // A page that is expensive to make is asked for less often: it may take a tenth of the time.
  let cost = 0;
  let timer = 0, due = 0, busy = false, again = false;

  const say = (word, text) => {
    if (status.dataset.word === word) return;
    status.dataset.word = word;
    status.textContent = text;
  };

  const ages = () => {
    for (const time of document.querySelectorAll("time[data-age]")) {
      const seconds = Math.max(0, Math.floor((Date.now() - Date.parse(time.dateTime)) / 1000));
      const text = seconds < 60 ? `${seconds} s` : seconds < 3600 ? `${Math.floor(seconds / 60)} min`
        : seconds < 172800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} days`;
      if (time.textContent !== `${text} ago`) time.textContent = `${text} ago`;
    }
  };

  // Makes `old` what `fresh` is. Nodes that stand for the same thing have the same id and are kept.
  const same = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id ?? "") === (b.id ?? "");
  const become = (old, fresh) => {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    for (const { name } of [...old.attributes]) {
      // Who reads opens and closes, not the server.
      if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
    }
    // Its text is its age, which is counted here.
    if (old.nodeName === "TIME" && old.dataset.age !== undefined) return;
    const known = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
    const wanted = new Set([...fresh.children].map((child) => child.id));
    let at = old.firstChild;
    const drop = () => { const gone = at; at = at.nextSibling; gone.remove(); };
    for (const child of [...fresh.childNodes]) {
      const keyed = child.id ? known.get(child.id) : undefined;
      if (keyed && same(keyed, child)) {
        // What stood before it and is no more goes, so that it need not move: moved, it would lose the focus.
        while (at && at !== keyed && !(at.id && wanted.has(at.id))) drop();
        if (at !== keyed) old.insertBefore(keyed, at);
        at = keyed;
      }
      if (at && same(at, child)) {
        const next = at.nextSibling;
        if (!at.isEqualNode(child)) become(at, child);
        at = next;
      } else {
        const added = document.adoptNode(child);
        if (added.classList?.contains("item")) added.classList.add("fresh");
        old.insertBefore(added, at);
      }
    }
    while (at) drop();
  };

  const refresh = async () => {
    timer = 0;
    if (busy || document.hidden) { again = true; return; }
    busy = true;
    const began = Date.now();
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" });
      if (!answer.ok) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
      if (fresh) become(part, fresh);
      ages();
    } catch {
      // The stream says when the collector is back.
    } finally {
      busy = false;
      cost = Date.now() - began;
      if (again && !document.hidden) { again = false; soon(EVERY); }
    }
  };

  const soon = (delay) => {
    delay = Math.max(delay, 10 * cost);
    const at = Date.now() + delay;
    if (timer && due <= at) return;
    clearTimeout(timer);
    due = at;
    timer = setTimeout(refresh, delay);
  };

  setInterval(ages, 1000);
  ages();
  if (!part) return;
  if (!("live" in part.dataset)) { say("still", "not live: a further part"); return; }
  const host = part.dataset.host;
  const stream = new EventSource(`/v1/stream?every=${EVERY}${host ? `&host=${encodeURIComponent(host)}` : ""}`);
  stream.onopen = () => { say("live", "live"); soon(0); };
  stream.onerror = () => say("lost", "connection lost, trying again");
  stream.addEventListener("changes", (event) => {
    const { findings, conditions, missed } = JSON.parse(event.data);
    soon(findings || conditions || missed ? 0 : BEATS);
  });
  document.addEventListener("visibilitychange", () => { if (again && !document.hidden) { again = false; soon(0); } });
  setInterval(() => soon(0), TIME);
})();
