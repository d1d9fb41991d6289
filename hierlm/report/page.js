"use strict";
// Draws every figure of the page and makes tables sortable. Data is in the element #figures, made by report/page.py.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const settings = {
    responsive: true,
    displaylogo: false,
    displayModeBar: "hover",
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg" },
  };

  const copy = (value) => JSON.parse(JSON.stringify(value));

  function showAxis(plot, figure, axis, buttons) {
    const variant = figure.variants[axis];
    const change = {
      "xaxis.title.text": variant.title,
      "xaxis.autorange": true,
      shapes: copy(variant.shapes),
      annotations: copy(variant.annotations),
    };
    Plotly.update(plot, { x: copy(variant.x) }, change);
    for (const button of buttons) button.classList.toggle("on", button.dataset.axis === axis);
  }

  for (const [id, figure] of Object.entries(figures)) {
    const plot = document.getElementById(id);
    Plotly.newPlot(plot, copy(figure.data), copy(figure.layout), settings);
    const buttons = plot.parentElement.querySelectorAll(".axes button");
    for (const button of buttons)
      button.addEventListener("click", () => showAxis(plot, figure, button.dataset.axis, buttons));
  }

  function sortBy(heading) {
    const body = heading.closest("table").tBodies[0];
    const index = heading.cellIndex;
    const up = heading.classList.contains("sorted") ? !heading.classList.contains("up") : heading.dataset.up === "1";
    const key = (row) => row.cells[index].dataset.value;
    const number = (text) => (text === "" || Number.isNaN(Number(text)) ? null : Number(text));
    const compare = (a, b) => {
      const [p, q] = [key(a), key(b)];
      if (p === "" || q === "") return (p === "") - (q === "");
      const [n, m] = [number(p), number(q)];
      const order = n !== null && m !== null ? n - m : p.localeCompare(q);
      return up ? order : -order;
    };
    for (const row of [...body.rows].sort(compare)) body.append(row);
    for (const other of heading.parentElement.cells) other.classList.remove("sorted", "up");
    heading.classList.add("sorted");
    heading.classList.toggle("up", up);
  }

  for (const heading of document.querySelectorAll("th[data-key]"))
    heading.addEventListener("click", () => sortBy(heading));

  document.documentElement.dataset.drawn = String(Object.keys(figures).length);
})();
