"use strict";
// The pages work without this. It fetches the same page again and swaps what has changed.
async function swap(address, chosen) {
  const answer = await fetch(address, { headers: { accept: "text/html" } });
  if (!answer.ok || answer.redirected) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const old of document.querySelectorAll(chosen)) {
    const fresh = page.getElementById(old.id);
    const typed = [...old.querySelectorAll("input")].some((input) => input.value !== input.defaultValue);
    if (!fresh || typed || fresh.isEqualNode(old)) continue;
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    for (const open of old.querySelectorAll("details[open]")) {
      const same = fresh.querySelector("#" + CSS.escape(open.id));
      if (same) same.open = true;
    }
    old.replaceWith(document.adoptNode(fresh));
    if (focused) document.getElementById(focused)?.focus();
  }
}
const stream = document.body.dataset.live;
if (stream) {
  let busy = false, again = false;
  const refresh = async () => {
    if (busy) { again = true; return; }
    busy = true;
    try { await swap(location.href, ".swap"); } catch { /* the next change comes */ }
    busy = false;
    if (again) { again = false; refresh(); }
  };
  const source = new EventSource(stream);
  source.addEventListener("changed", refresh);
  addEventListener("pagehide", () => source.close());
}
const slider = document.querySelector(".slider input[type=range]");
if (slider) {
  slider.addEventListener("change", async () => {
    const address = new URL(location.href);
    address.searchParams.set("seq", slider.value);
    history.replaceState(null, "", address);
    document.getElementById("context").textContent = "Context after event " + slider.value;
    await swap(address, ".at");
  });
}
