"use strict";
// A table wider than its frame says that it scrolls; one that is not shown yet is measured when it is.
(() => {
  const measure = () => {
    for (const frame of document.querySelectorAll(".scroll")) {
      if (!frame.clientWidth) continue;
      const wider = frame.scrollWidth > frame.clientWidth + 1;
      frame.classList.toggle("wider", wider);
      frame.classList.toggle("fits", !wider);
    }
  };
  addEventListener("resize", measure);
  addEventListener("load", measure);
  document.addEventListener("toggle", measure, true);
  measure();
})();
