let view = null;
let shown = 0; // how often the chart was shown

async function show() {
  view?.finalize();
  ({ view } = await vegaEmbed("#curves", data.chart, embedding()));
  isShown(++shown);
}

dark.addEventListener("change", show);
show();
