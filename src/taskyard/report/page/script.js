
"use strict";
// Shows the values under the pointer, or of the place that the arrow keys choose.
(() => {
  const charts = JSON.parse(document.getElementById("points").textContent);
  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    const chart = charts[figure.dataset.chart];
    const plot = figure.querySelector(".plot");
    const tip = plot.querySelector(".tip");
    const cross = plot.querySelector(".cross");
    const dots = plot.querySelectorAll(".dot");
    let at = -1;

    const hide = () => {
      tip.hidden = true;
      for (const mark of [cross, ...dots]) mark.setAttribute("visibility", "hidden");
      at = -1;
    };
    const show = (index) => {
      at = index;
      const left = 100 * chart.x[at] + "%";
      for (const end of ["x1", "x2"]) cross.setAttribute(end, left);
      cross.setAttribute("visibility", "visible");
      const caption = document.createElement("b");
      caption.textContent = chart.at[at];
      tip.replaceChildren(caption);
      chart.series.forEach((series, number) => {
        const y = series.y[at];
        const dot = dots[number];
        dot.setAttribute("visibility", y === null ? "hidden" : "visible");
        if (y === null) return;
        dot.setAttribute("cx", left);
        dot.setAttribute("cy", chart.top + chart.height * (1 - y));
        const row = document.createElement("div");
        for (const text of [series.name, series.text[at]]) {
          const cell = document.createElement("span");
          cell.textContent = text;
          row.append(cell);
        }
        tip.append(row);
      });
      tip.hidden = false;
      // Beside the place, on the side that has more room; never out of the plot.
      const width = plot.clientWidth, x = chart.x[at] * width;
      const beside = x > width / 2 ? x - tip.offsetWidth - 14 : x + 14;
      tip.style.left = Math.max(-50, Math.min(beside, width - tip.offsetWidth)) + "px";
    };
    const nearest = (x) => {
      let low = 0, high = chart.x.length - 1;
      while (low < high) {
        const middle = (low + high) >> 1;
        if ((chart.x[middle] + chart.x[middle + 1]) / 2 < x) low = middle + 1;
        else high = middle;
      }
      return low;
    };
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 };

    const follow = (event) => {
      const box = plot.getBoundingClientRect();
      show(nearest((event.clientX - box.left) / box.width));
    };
    plot.addEventListener("pointermove", follow);
    plot.addEventListener("pointerdown", follow);
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hide();
      if (!(event.key in moves)) return;
      event.preventDefault();
      show(Math.max(0, Math.min(at + moves[event.key], chart.x.length - 1)));
    });
    plot.tabIndex = 0;
  }
})();
