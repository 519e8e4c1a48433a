"use strict";
// Figures are drawn when they come into view, and again when their controls or the theme change.
(() => {
  const CONFIG = { displayModeBar: false, responsive: true, displaylogo: false };
  const PRINT = { width: 330, height: 250 };
  const groups = [...document.querySelectorAll(".figures")].map(setUp);

  function setUp(element) {
    const board = JSON.parse(document.getElementById(element.dataset.chart).textContent);
    const state = { population: "overall", view: "accuracy", hidden: new Set() };
    const group = { element, board, state, drawn: new Set(), plots: [...element.querySelectorAll(".plot")] };

    element.addEventListener("change", (event) => {
      const control = event.target;
      if (control.type !== "radio") return;
      state[control.name.endsWith("-view") ? "view" : "population"] = control.value;
      redraw(group);
      showUser(group);
    });
    const legend = element.querySelector(".legend");
    const all = legend.querySelector("[data-all]");
    const refresh = () => {
      for (const button of legend.querySelectorAll("[data-row]")) {
        button.setAttribute("aria-pressed", String(!state.hidden.has(Number(button.dataset.row))));
      }
      all.hidden = state.hidden.size === 0;
      redraw(group);
    };
    legend.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const row = Number(button.dataset.row);
      if (button === all) state.hidden.clear();
      else if (state.hidden.has(row)) state.hidden.delete(row);
      else state.hidden.add(row);
      if (button === all) legend.querySelector("button").focus();
      refresh();
    });
    element.querySelector("select.user").addEventListener("change", () => showUser(group));
    return group;
  }

  function draw(group, plot) {
    const kind = plot.closest(".chart").dataset.kind;
    const { traces, layout } = PB.traces.draw[kind](group.board, group.state);
    if (PB.printing) Object.assign(layout, PRINT, { autosize: false });
    Plotly.react(plot, traces, layout, CONFIG);
    group.drawn.add(plot);
  }

  function redraw(group) {
    group.drawn.forEach((plot) => draw(group, plot));
  }

  function cell(kind, text, numeric) {
    const made = document.createElement(kind);
    made.textContent = text;
    if (numeric) made.className = "n";
    if (kind === "th") made.scope = numeric === undefined ? "row" : "col";
    return made;
  }

  // A table of one user: every method's accuracy, and its gain over the baseline.
  function showUser(group) {
    const { board, state, element } = group;
    const place = element.querySelector(".user-table");
    const chosen = element.querySelector("select.user").value;
    place.replaceChildren();
    if (chosen === "") return;
    const u = board.users.indexOf(Number(chosen));
    const tested = board.tested[state.population][u];
    const table = document.createElement("table");
    table.className = "grid";
    const who = state.population === "overall" ? "" : ` as ${state.population} user`;
    const caption = table.createCaption().appendChild(document.createElement("span"));
    caption.textContent =
      `User ${chosen}${who}: mean over the ${tested} of ${board.splits.length} splits with the user's test comparisons`;
    const head = table.createTHead().insertRow();
    head.append(cell("th", "Method", false), cell("th", "Accuracy (%)", true));
    const baseline = element.dataset.baseline;
    if (baseline) head.append(cell("th", `Difference from ${baseline} (points)`, true));
    const body = table.createTBody();
    const rows = board.rows.filter((row) => row.user[state.population]?.accuracy[u] != null);
    rows.sort((a, b) => b.user[state.population].accuracy[u] - a.user[state.population].accuracy[u]);
    for (const row of rows) {
      const own = row.user[state.population];
      const line = body.insertRow();
      line.append(cell("th", row.title), cell("td", own.accuracy[u].toFixed(1), true));
      const gain = own.gain?.[u];
      if (baseline) line.append(cell("td", gain == null ? "–" : PB.traces.signed(gain), true));
    }
    if (!rows.length) body.insertRow().append(cell("td", "Not tested in these results."));
    place.append(table);
  }

  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      watch.unobserve(entry.target);
      draw(groups.find((group) => group.plots.includes(entry.target)), entry.target);
    }
  }, { rootMargin: "400px" });
  groups.forEach((group) => group.plots.forEach((plot) => watch.observe(plot)));

  PB.themeChanged = () => groups.forEach(redraw);

  // On paper everything is open, drawn and light.
  let closed = [];
  addEventListener("beforeprint", () => {
    PB.printing = true;
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((details) => { details.open = true; });
    groups.forEach((group) => group.plots.forEach((plot) => draw(group, plot)));
  });
  addEventListener("afterprint", () => {
    PB.printing = false;
    closed.forEach((details) => { details.open = false; });
    groups.forEach(redraw);
  });
})();
