"use strict";
// The search box: pages of the site whose title has all the words.
(() => {
  const links = JSON.parse(document.getElementById("links").textContent);
  const field = document.getElementById("find");
  const list = document.getElementById("found");
  field.form.hidden = false;
  const show = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fitting = words.length
      ? links.filter((link) => words.every((word) => `${link.title} ${link.kind}`.toLowerCase().includes(word)))
      : [];
    list.replaceChildren(...fitting.slice(0, 30).map((link) => {
      const item = document.createElement("li");
      const anchor = document.createElement("a");
      anchor.href = link.at;
      anchor.textContent = `${link.title} (${link.kind})`;
      item.append(anchor);
      return item;
    }));
    if (words.length && !fitting.length) {
      const item = document.createElement("li");
      item.textContent = "no page has all these words";
      list.replaceChildren(item);
    }
  };
  field.addEventListener("input", show);
  field.form.addEventListener("submit", (event) => {
    event.preventDefault();
    const first = list.querySelector("a");
    if (first) location.href = first.href;
  });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { field.value = ""; show(); }
  });
})();
