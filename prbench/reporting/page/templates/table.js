"use strict";
// Sorting and filtering. Rows are sorted within their group, so that a row that is not ranked never passes one that is.
(() => {
  const value = (cell) => {
    if (!cell || cell.dataset.value === undefined) return null;
    const number = Number(cell.dataset.value);
    return Number.isNaN(number) ? cell.dataset.value : number;
  };

  // What is missing stays last in both orders.
  const compare = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
  };

  const sortable = (table) => {
    const heads = [...table.tHead.rows[0].cells];
    const bodies = [...table.tBodies];
    const order = bodies.map((body) => [...body.rows]);
    const initial = heads.map((head) => head.getAttribute("aria-sort"));

    const mark = (chosen, direction) => heads.forEach((head) => {
      head === chosen ? head.setAttribute("aria-sort", direction) : head.removeAttribute("aria-sort");
    });
    const sort = (head) => {
      const other = { ascending: "descending", descending: "ascending" };
      const direction = other[head.getAttribute("aria-sort")] ?? head.dataset.first;
      const sign = direction === "ascending" ? 1 : -1;
      bodies.forEach((body, i) => {
        const rows = order[i].filter((row) => !row.classList.contains("group"));
        const keyed = rows.map((row) => [value(row.cells[head.cellIndex]), row]);
        keyed.sort((a, b) => compare(a[0], b[0], sign));
        body.append(...order[i].filter((row) => row.classList.contains("group")), ...keyed.map((pair) => pair[1]));
      });
      mark(head, direction);
    };
    for (const head of heads) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      if (head.title) button.setAttribute("aria-description", head.title);
      button.addEventListener("click", () => sort(head));
      head.append(button);
    }
    return () => {
      bodies.forEach((body, i) => body.append(...order[i]));
      heads.forEach((head, i) => initial[i] ? head.setAttribute("aria-sort", initial[i]) : head.removeAttribute("aria-sort"));
    };
  };

  const filterable = (form, table, restore) => {
    const bodies = [...table.tBodies];
    const status = form.querySelector("output");
    const none = table.closest(".scroll").nextElementSibling;
    const apply = () => {
      const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
      const family = form.elements.family.value;
      let shown = 0, all = 0;
      for (const body of bodies) {
        const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
        for (const row of rows) {
          const fits = words.every((word) => row.dataset.search.includes(word));
          row.hidden = !fits || (family !== "" && row.dataset.family !== family);
          all += 1;
          shown += !row.hidden;
        }
        body.hidden = rows.every((row) => row.hidden);
      }
      none.hidden = shown > 0;
      status.textContent = `${shown} of ${all} methods`;
    };
    form.hidden = false;
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => { restore(); setTimeout(apply); });
    apply();
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    const restore = sortable(table);
    filterable(document.querySelector(`form[data-table="${table.id}"]`), table, restore);
  }
})();
