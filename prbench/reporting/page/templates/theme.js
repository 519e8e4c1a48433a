"use strict";
// Light or dark: what the reader chose here, else what the system says.
const PB = { printing: false };
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const KEY = "prbench-theme";
  // Storage may be forbidden, as it is for files in some browsers.
  const stored = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const store = (theme) => { try { localStorage.setItem(KEY, theme); } catch { /* kept for this visit only */ } };

  PB.dark = () => !PB.printing && (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  PB.themeChanged = () => {};

  const chosen = stored();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const say = () => {
      button.setAttribute("aria-pressed", String(PB.dark()));
      PB.themeChanged();
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = PB.dark() ? "light" : "dark";
      store(root.dataset.theme);
      say();
    });
    system.addEventListener("change", say);
    say();
  });
})();
