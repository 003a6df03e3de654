const chosen = { snapshot: data.at.length - 1, scan: 0, step: null }; // null: that which is read last
let views = {}; // promises, by the name of the chart
let shown = 0; // how often something was shown

const any = (values) => values.some((value) => value > 0);
const digits = (value) => (value === null ? say("unknown") : Number(value.toPrecision(3)).toString());
const count = (number, name) => say(number === 1 ? name : `${name}s`, number);
const between = document.documentElement.lang === "en" ? " " : ""; // two sentences

// What stands above each chart; whether there is anything to draw.
const figures = {
  states: {
    drawn: (row) => row.states.some((line) => line.some((value) => value !== null)),
    about: (row) =>
      row.states.length &&
      say("states", count(row.states[0].length, "unit"), steps(row)),
  },
  gradient: {
    drawn: (row) => any(row.norms),
    about: (row) => {
      if (!row.norms.length) return "";
      if (!any(row.norms)) return say("ends", row.ends);
      const of = count(row.norms.length, "step");
      const { underflow, zero } = row;
      const none = row.norms.filter((norm) => norm === null).length;
      const odd = Object.entries({ underflow, zero, none }).filter(([, number]) => number);
      return [say("gradient"), ...odd.map(([name, number]) => say(name, number, of))].join(between);
    },
  },
  by_lag: {
    drawn: (row) => any(row.mean_lags),
    about: (row) =>
      row.lags.length &&
      (stepOf(row) < row.lags.length
        ? say("by_lag", kept(row), stepOf(row), horizon(row))
        : say("mean", count(row.lags.length, "step"), stepOf(row))),
  },
  lags: {
    drawn: (row) => row.lags.some(any),
    about: (row) =>
      row.lags.some(any) && say(row.estimated ? "estimated" : "lags", kept(row)),
  },
  eigenvalues: {
    drawn: (row) => row.eigenvalues.length,
    about: (row) => row.eigenvalues.length && say("eigenvalues"),
  },
  time_scales: {
    drawn: (row) => row.scales.length,
    about: (row) => {
      const never = row.units - row.scales.length;
      if (!row.gate) return "";
      const gate = [row.gate.name, digits(row.gate.mean)];
      const units = count(row.units, "unit");
      return never ? say("never", ...gate, never, units) : say("gate", ...gate, units);
    },
  },
};

/** What is left of a state. */
const kept = (row) => `‖∂s_t/∂s_{t${row.direction ? "+" : "−"}k}‖`;

/** Which steps have a state to show. */
function steps(row) {
  const reached = Math.min(row.states.length * row.every, row.norms.length);
  const of = reached < row.norms.length ? say("some", reached, row.norms.length) : say("all", reached);
  return row.every > 1 ? say("every", of, row.every) : of;
}

/** In the words of the verdicts: after how many steps a hundredth is left. */
function horizon(row) {
  const line = row.lags[stepOf(row)].filter((value) => value !== null);
  const end = line.findIndex((value) => value < 0.01);
  if (end > 0) {
    const [above, below] = [line[end - 1], line[end]];
    const part = below > 0 ? Math.log(above / 0.01) / Math.log(above / below) : 1; // as lens.horizon
    return say("horizon", count(Math.round(end - 1 + part), "step"));
  }
  if (line.length < 2) return say("nothing");
  return say("beyond", count(line.length - 1, "step"), digits(line.at(-1)));
}

/** The selected step; unless one was chosen, the last that is read. */
function stepOf(row) {
  const last = row ? row.norms.length - 1 : 0;
  return Math.max(0, Math.min(chosen.step ?? (row?.direction ? 0 : last), last));
}

const rowOf = ({ snapshot, scan }) => data.rows.find((row) => row.snapshot === snapshot && row.scan === scan);

/** Change what is chosen, and show it. */
function choose(change) {
  Object.assign(chosen, change);
  const row = rowOf(chosen);
  element("step").max = row ? Math.max(0, row.norms.length - 1) : 0;
  const now = { ...chosen, step: stepOf(row) };
  for (const id of ["snapshot", "scan", "step"]) if (element(id)) element(id).value = now[id];
  element("chosen").value = now.step;
  tell(row);
  return draw(row);
}

/** Everything that is words. */
function tell(row) {
  document.querySelectorAll(".snapshot").forEach((part, i) => (part.hidden = i !== chosen.snapshot));
  document.querySelectorAll("[data-scan]").forEach((button) =>
    button.setAttribute("aria-pressed", Number(button.dataset.scan) === chosen.scan));
  if (element("at")) element("at").value = data.at[chosen.snapshot];
  element("view").hidden = !data.rows.length;
  element("name").textContent = element("scan").selectedOptions[0]?.textContent ?? "";
  element("said").textContent = row?.norms.length
    ? say("selected", stepOf(row), digits(row.norms[stepOf(row)] ?? null))
    : say("absent");
  for (const [name, { drawn, about }] of Object.entries(figures)) {
    const text = row ? about(row) : "";
    const figure = element(name);
    figure.hidden = !text;
    figure.querySelector(".about").textContent = text || "";
    figure.querySelector(".chart").hidden = !(row && drawn(row));
  }
}

/** Everything that is a chart; `data-shown` counts when all of it is there. */
async function draw(row) {
  const mine = ++shown;
  const signals = { ...chosen, step: stepOf(row) };
  const growth = data.rows.map(({ states, lags, ...rest }) => rest);
  for (const name of Object.keys(data.charts)) {
    const chart = element(name)?.querySelector(".chart");
    if (!chart || chart.hidden) continue;
    const rows = name === "growth" ? growth : row ? [row] : [];
    views[name] ??= embed(name, chart, rows, signals);
    const view = await views[name];
    if (mine !== shown) return;
    if (!name.startsWith("trial_")) view.data("rows", rows);
    for (const [signal, value] of Object.entries(signals)) view.signal(signal, value);
    await view.resize().runAsync();
    if (mine !== shown) return;
  }
  isShown(mine);
}

async function embed(name, chart, rows, signals) {
  const params = Object.entries(signals).map(([name, value]) => ({ name, value }));
  const { datasets, ...drawn } = data.charts[name];
  const description = chart.closest("figure").querySelector("figcaption").textContent; // for a reader of screens
  const spec = { ...drawn, description, params, datasets: { ...datasets, rows } };
  const { view } = await vegaEmbed(chart, spec, embedding());
  view.addEventListener("click", (_, item) => {
    const { t, snapshot, scan } = item?.datum ?? {};
    if (item?.mark.marktype === "rect" && t !== undefined) choose({ step: t });
    if (item?.mark.marktype === "symbol" && name === "growth") choose({ snapshot, scan });
  });
  return view;
}

for (const [id, event] of [["snapshot", "input"], ["scan", "change"], ["step", "input"]]) {
  element(id)?.addEventListener(event, ({ target }) => choose({ [id]: Number(target.value) }));
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-scan]");
  if (!button) return;
  choose({ scan: Number(button.dataset.scan) });
  element("view").scrollIntoView({ block: "start" });
});
dark.addEventListener("change", async () => {
  const old = views;
  views = {};
  for (const view of await Promise.all(Object.values(old))) view.finalize();
  choose({});
});

choose({ scan: data.scan }); // the worst
