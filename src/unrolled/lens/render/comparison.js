"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
let view = null;
let shown = 0; // how often the chart was shown

async function show() {
  view?.finalize();
  const options = {
    mode: "vega-lite",
    renderer: "svg",
    actions: false,
    ast: true, // the page's policy forbids to evaluate text
    config: dark.matches ? data.dark : data.light,
    tooltip: { theme: dark.matches ? "dark" : "light" },
    logLevel: 1, // errors alone
  };
  ({ view } = await vegaEmbed("#curves", data.chart, options));
  document.documentElement.dataset.shown = ++shown;
}

dark.addEventListener("change", show);
show();
