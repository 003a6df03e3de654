"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const worst = ["exploding", "vanishing", "dead", "saturated", "healthy", null];
const chosen = { snapshot: data.at.length - 1, scan: 0, step: null }; // null: that which is read last
let views = {}; // promises, by the name of the chart
let shown = 0; // how often something was shown

const element = (id) => document.getElementById(id);
const any = (values) => values.some((value) => value > 0);
const digits = (value) => (value === null ? "unknown" : Number(value.toPrecision(3)).toString());
const count = (number, name) => `${number} ${name}${number === 1 ? "" : "s"}`;

// What stands above each chart; whether there is anything to draw.
const figures = {
  states: {
    drawn: (row) => row.states.some((line) => line.some((value) => value !== null)),
    about: (row) =>
      row.states.length &&
      `h_t of one lane: ${count(row.states[0].length, "unit")}, ` +
        `${steps(row)}. ` +
        "Click on a step to select it.",
  },
  gradient: {
    drawn: (row) => any(row.norms),
    about: (row) => {
      if (!row.norms.length) return "";
      if (!any(row.norms)) return `‖∂L/∂h_t‖, first to last step: ${row.ends}.`;
      const none = row.norms.filter((norm) => norm === null).length;
      const of = `of ${count(row.norms.length, "step")}`;
      return "‖∂L/∂h_t‖, the mean over lanes and its spread." +
        (row.underflow ? ` It underflowed, too small for its dtype, at ${row.underflow} ${of}.` : "") +
        (row.zero ? ` It is 0 at ${row.zero} ${of}, on which the loss does not depend.` : "") +
        (none ? ` None came, or no finite one, at ${none} ${of}.` : "");
    },
  },
  by_lag: {
    drawn: (row) => any(row.mean_lags),
    about: (row) =>
      row.lags.length &&
      (stepOf(row) < row.lags.length
        ? `‖∂s_t/∂s_{t${row.direction ? "+" : "−"}k}‖ at t = ${stepOf(row)}: ${horizon(row)}`
        : `The mean over the first ${count(row.lags.length, "step")}, which were taken apart; step ${stepOf(row)} was not.`),
  },
  lags: {
    drawn: (row) => row.lags.some(any),
    about: (row) =>
      row.lags.some(any) &&
      `The logarithm of ‖∂s_t/∂s_{t${row.direction ? "+" : "−"}k}‖` +
        (row.estimated ? ", estimated from 16 random directions." : "."),
  },
  eigenvalues: {
    drawn: (row) => row.eigenvalues.length,
    about: (row) => row.eigenvalues.length && "Of each block of W, beside the unit circle.",
  },
  time_scales: {
    drawn: (row) => row.scales.length,
    about: (row) => {
      const never = row.units - row.scales.length;
      return row.gate && `${row.gate.name} is ${digits(row.gate.mean)} on average` +
        (never ? `; ${never} of ${count(row.units, "unit")} never forget.` : ` over ${count(row.units, "unit")}.`);
    },
  },
};

/** Which steps have a state to show. */
function steps(row) {
  const reached = Math.min(row.states.length * row.every, row.norms.length);
  const of = reached < row.norms.length ? `the first ${reached} of ${row.norms.length}` : `all ${row.norms.length}`;
  return `${of} steps${row.every > 1 ? `, one shown of every ${row.every}` : ""}`;
}

/** In the words of the verdicts: after how many steps a hundredth is left. */
function horizon(row) {
  const line = row.lags[stepOf(row)].filter((value) => value !== null);
  const end = line.findIndex((value) => value < 0.01);
  if (end > 0) {
    const [above, below] = [line[end - 1], line[end]];
    const between = below > 0 ? Math.log(above / 0.01) / Math.log(above / below) : 1; // as lens.horizon
    return `horizon ${count(Math.round(end - 1 + between), "step")}.`;
  }
  if (line.length < 2) return "it is the first step that is read.";
  return `horizon beyond its ${count(line.length - 1, "step")}, after which ${digits(line.at(-1))} is left.`;
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
    ? `Step ${stepOf(row)} is selected: ‖∂L/∂h_t‖ is ${digits(row.norms[stepOf(row)] ?? null)}.`
    : "This scan did not run here.";
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
  document.documentElement.dataset.shown = mine;
}

async function embed(name, chart, rows, signals) {
  const params = Object.entries(signals).map(([name, value]) => ({ name, value }));
  const { datasets, ...drawn } = data.charts[name];
  const description = chart.closest("figure").querySelector("figcaption").textContent; // for a reader of screens
  const spec = { ...drawn, description, params, datasets: { ...datasets, rows } };
  const { view } = await vegaEmbed(chart, spec, {
    mode: "vega-lite",
    renderer: "svg",
    actions: false,
    ast: true, // the page's policy forbids to evaluate text
    config: dark.matches ? data.dark : data.light,
    tooltip: { theme: dark.matches ? "dark" : "light" },
    logLevel: 1, // errors alone
  });
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

const last = data.rows.filter((row) => row.snapshot === chosen.snapshot);
const rank = (row) => worst.indexOf(row.state);
const first = last.sort((a, b) => rank(a) - rank(b))[0];
choose({ scan: first?.scan ?? 0 });
