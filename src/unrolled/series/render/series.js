const chosen = { series: data.typical, fan: 0, ahead: 1 };
let views = {}; // promises, by the name of the chart
let shown = 0; // how often something was shown
const embedded = {}; // what is done with a chart that is new, by its name

const SHARES = [50, 80, 95];
const DAY = 24 * 60 * 60 * 1000;
const panelOf = () => data.series[chosen.series];
const isKnown = (value) => value !== null && value !== undefined;
const number = (value) =>
  isKnown(value)
    ? value.toLocaleString("en-US", { maximumSignificantDigits: Math.abs(value) < 1000 ? 4 : 6 })
    : say("nothing");

/** A value of the chosen series, all of which have the same decimals. */
function valued(value) {
  const [low, high] = panelOf().ends;
  const digits = Math.max(0, Math.min(8, 3 - Math.floor(Math.log10(high - low))));
  const form = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return isKnown(value) ? value.toLocaleString("en-US", form) : say("nothing");
}

/** The times of a series, of which the first and the step are given where it is always the same. */
function timesOf(panel) {
  const { each, first, step, count } = panel.times;
  return (panel.all ??= each ?? Array.from({ length: count }, (_, k) => first + k * step));
}

/** A time in words; of a calendar to the minute, or of days to the day. */
function when(panel, at) {
  const times = timesOf(panel);
  if (!data.time.is_calendar) return number(times[at]);
  const text = new Date(times[at]).toISOString();
  panel.ofDays ??= times.every((time) => time % DAY === 0);
  if (panel.ofDays) return text.slice(0, 10);
  panel.ofMinutes ??= times.every((time) => time % 60000 === 0);
  return text.slice(0, panel.ofMinutes ? 16 : 19).replace("T", " ");
}

/** What was said of the step `k` of `told`, as a row of a chart, with its words. */
function rowOf(panel, at, told, k) {
  const row = { t: timesOf(panel)[at], seen: panel.seen[at] ?? null, median: told.median[k], when: when(panel, at) };
  Object.assign(row, { came: number(row.seen), middle: valued(row.median) });
  if (told.naive) Object.assign(row, { naive: told.naive[k], season: number(told.naive[k]) });
  for (const share of SHARES.filter((share) => told[`low${share}`])) {
    const [low, high] = [told[`low${share}`][k], told[`high${share}`][k]];
    Object.assign(row, { [`low${share}`]: low, [`high${share}`]: high, [`of${share}`]: `${valued(low)} … ${valued(high)}` });
  }
  return row;
}

/** The rows of a forecast from one origin, which begins at what was seen there. */
function fanRows(panel, fan) {
  const { origin } = fan;
  const first = Math.max(0, origin + 1 - panel.window);
  const last = origin + fan.median.length;
  const times = timesOf(panel);
  const told = fan.median.map((_, k) => rowOf(panel, origin + 1 + k, fan, k));
  const start = panel.seen[origin];
  if (isKnown(start)) {
    const same = Object.fromEntries(Object.keys(told[0]).filter((name) => /^(low|high|median|naive)/.test(name)).map((name) => [name, start]));
    told.unshift({ t: times[origin], ...same });
  }
  const seen = [];
  for (let at = first; at <= Math.min(last, panel.seen.length - 1); at++) seen.push({ t: times[at], seen: panel.seen[at] });
  return { told, seen, origin: [{ t: times[origin] }], ends: endsOf(panel, first, last) };
}

/** How far the axes reach: from a step to another, and over all values. */
const endsOf = (panel, first, last) =>
  [first, last].map((at, k) => ({ t: timesOf(panel)[at], y: panel.ends[k] }));

/** Draw the charts of `parts`, each with its rows by name; `data-shown` counts when all of it is there. */
async function drawAll(parts) {
  const mine = ++shown;
  for (const [name, rows] of Object.entries(parts)) {
    const chart = element(name).querySelector(".chart");
    chart.hidden = !rows;
    if (!rows) continue;
    views[name] ??= embed(name, chart, rows);
    const view = await views[name];
    if (mine !== shown) return;
    for (const [key, values] of Object.entries(rows)) view.data(key, values);
    await view.resize().runAsync();
    if (mine !== shown) return;
  }
  isShown(mine);
}

async function embed(name, chart, rows) {
  const { datasets, ...drawn } = data.charts[name];
  const description = chart.closest("figure").querySelector("figcaption").textContent; // for a reader of screens
  const { view } = await vegaEmbed(chart, { ...drawn, description, datasets: { ...datasets, ...rows } }, embedding());
  embedded[name]?.(view, chart);
  return view;
}

/** Change what is chosen, and show it. */
function choose(change) {
  Object.assign(chosen, change);
  const panel = panelOf();
  chosen.fan = Math.max(0, Math.min(chosen.fan, panel.fans.length - 1));
  for (const id of ["series", "ahead"]) if (element(id)) element(id).value = chosen[id];
  document.querySelectorAll("[data-series]").forEach((button) =>
    button.setAttribute("aria-pressed", Number(button.dataset.series) === chosen.series));
  return show(panel);
}

const about = (name, ...sentences) =>
  (element(name).querySelector(".about").textContent = sentences.join(document.documentElement.lang === "en" ? " " : ""));

for (const id of ["series", "ahead"])
  element(id)?.addEventListener("change", ({ target }) => choose({ [id]: Number(target.value) }));
dark.addEventListener("change", async () => {
  const old = views;
  views = {};
  for (const view of await Promise.all(Object.values(old))) view.finalize();
  choose({});
});
