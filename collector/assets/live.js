// Keeps a page current: when the collector says that something changed, the page is fetched again and its live part
// replaced by the part of the same name. The server has escaped everything; nothing is put together here but text.
"use strict";
(() => {
  const status = document.getElementById("status");
  const part = () => document.getElementById("live");
  const mode = part()?.dataset.live;
  const wait = { finding: 200, condition: 200, lagged: 200, host: mode === "slow" ? 1000 : 5000 };
  // A page that is expensive to make is asked for less often: it may take a tenth of the time.
  let cost = 0;
  let timer = 0, due = 0, busy = false, again = false;

  const say = (word, text) => { status.dataset.word = word; status.textContent = text; };

  const ages = () => {
    for (const time of document.querySelectorAll("time[datetime]")) {
      const seconds = Math.max(0, Math.floor((Date.now() - Date.parse(time.dateTime)) / 1000));
      const text = seconds < 60 ? `${seconds} s` : seconds < 3600 ? `${Math.floor(seconds / 60)} min`
        : seconds < 172800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} days`;
      if (time.textContent !== `${text} ago`) time.textContent = `${text} ago`;
    }
  };

  const refresh = async () => {
    timer = 0;
    if (busy) { again = true; return; }
    busy = true;
    const began = Date.now();
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" });
      if (!answer.ok) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
      if (!fresh) return;
      const old = part();
      const known = new Set([...old.querySelectorAll("article[id]")].map((article) => article.id));
      for (const open of old.querySelectorAll("details[open][id]")) {
        const same = fresh.querySelector(`#${CSS.escape(open.id)}`);
        if (same) same.open = true;
      }
      for (const article of fresh.querySelectorAll("article[id]")) {
        if (!known.has(article.id)) article.classList.add("fresh");
      }
      old.replaceWith(document.adoptNode(fresh));
      ages();
    } catch {
      // The stream says when the collector is back.
    } finally {
      busy = false;
      cost = Date.now() - began;
      if (again) { again = false; soon(200); }
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
  if (!part() || mode === "never") { say("still", "not live: an earlier part"); return; }
  const stream = new EventSource("/v1/stream");
  stream.onopen = () => { say("live", "live"); soon(0); };
  stream.onerror = () => say("lost", "connection lost, trying again");
  for (const [name, delay] of Object.entries(wait)) stream.addEventListener(name, () => soon(delay));
  // Silence makes a host silent without any event.
  setInterval(() => soon(0), 30000);
})();
