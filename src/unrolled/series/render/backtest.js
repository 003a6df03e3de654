const STEPS = 240; // of what was said over time, at first
const SHORTEST = 0.01; // part of all time that is seen closer

/** Everything of the chosen series. */
function show(panel) {
  const fan = panel.fans[chosen.fan];
  element("name").textContent = panel.name;
  element("origin").max = panel.fans.length - 1;
  element("origin").value = chosen.fan;
  element("at").value = when(panel, fan.origin);
  about("fan", say("fan", when(panel, fan.origin), fan.median.length));
  const ahead = panel.ahead[chosen.ahead];
  const plural = (name, count) => (count === 1 ? say(`${name}_1`) : say(name, count));
  about("track", plural("track", chosen.ahead));
  about("errors", plural("errors", panel.smooth), say("drag"));
  element("whole").hidden = !chosen.part;
  return drawAll({
    by_horizon: {},
    coverage: {},
    fan: fanRows(panel, fan),
    track: trackRows(panel, ahead, fan),
    errors: errorRows(panel, ahead),
    ...residualRows(panel.residuals[chosen.ahead]),
  });
}

function trackRows(panel, ahead, fan) {
  const times = timesOf(panel);
  const every = ahead.at.map((at, k) => [at, k]);
  const [from, to] = chosen.part ?? [-Infinity, Infinity];
  const within = every.filter(([at]) => times[at] >= from && times[at] <= to);
  const inside = within.length > 1 ? within : every;
  const rows = inside.map(([at, k]) => ({ ...rowOf(panel, at, ahead, k), at: at - chosen.ahead }));
  const marked = fan.origin + chosen.ahead;
  const mark = inside.some(([at]) => at === marked) ? [{ t: times[marked] }] : [];
  return { track: rows, mark, ends: endsOf(panel, inside[0][0], inside.at(-1)[0]) };
}

function errorRows(panel, ahead) {
  const times = timesOf(panel);
  const lines = [ahead.error, ahead.naive_error];
  const errors = lines.flatMap((line, k) => line.map((error, i) => ({ t: times[ahead.at[i]], who: data.names[k], error })));
  const steps = ahead.at.map((at, i) => ({
    t: times[at],
    when: when(panel, at),
    network: number(ahead.error[i]),
    naive: number(ahead.naive_error[i]),
  }));
  return { errors, steps, part: partRows(chosen.part), ends: endsOf(panel, ahead.at[0], ahead.at.at(-1)) };
}

/** The part of all time that is seen closer. */
const partRows = (part) => (part ? [{ t: part[0], end: part[1] }] : []);

/** The rows of both pictures of residuals, or none where no value is known. */
function residualRows({ edges, counts, correlation, bound, mean, count }) {
  if (!counts.length) {
    about("residuals", say("none"));
    about("correlation", say("none"));
    return { residuals: null, correlation: null };
  }
  about("residuals", say("residuals", number(mean)));
  const apart = chosen.ahead === 1 ? say("correlation_1") : say("correlation", chosen.ahead);
  about("correlation", apart, say("band", number(count)));
  const bins = counts.map((times, k) => {
    const [low, high] = [edges[k], edges[k + 1]];
    return { low, high, count: times, floor: 0, range: `${number(low)} … ${number(high)}` };
  });
  const lags = correlation.map((value, k) => {
    const lag = k + 1;
    return { lag, low: lag - 0.4, high: lag + 0.4, value, floor: 0, shown: number(value), overlaps: lag < chosen.ahead };
  });
  const chance = [{ low: 0.4, high: correlation.length + 0.6, below: -bound, above: bound }];
  return { residuals: { bins, zero: [{ x: 0 }] }, correlation: lags.length ? { lags, chance } : null };
}

/** The forecast whose origin is nearest to a step. */
function pick(at) {
  const away = panelOf().fans.map(({ origin }) => Math.abs(origin - at));
  choose({ fan: away.indexOf(Math.min(...away)) });
}

embedded.track = (view) =>
  view.addEventListener("click", (_, item) => isKnown(item?.datum?.at) && pick(item.datum.at));
embedded.errors = (view, chart) => {
  const timeAt = ({ clientX }) => {
    const x = clientX - chart.querySelector("svg").getBoundingClientRect().left - view.origin()[0];
    return Number(view.scale("x").invert(Math.max(0, Math.min(x, view.width()))));
  };
  let begin = null;
  const to = (event) => [begin, timeAt(event)].sort((a, b) => a - b);
  chart.onpointerdown = (event) => {
    begin = timeAt(event);
    chart.setPointerCapture(event.pointerId);
  };
  chart.onpointermove = (event) => begin !== null && view.data("part", partRows(to(event))).runAsync();
  chart.onpointerup = (event) => {
    const part = to(event);
    begin = null;
    choose(part[1] - part[0] > SHORTEST * (view.scale("x").domain()[1] - view.scale("x").domain()[0]) ? { part } : {});
  };
  chart.onpointercancel = () => (begin = null);
};
element("whole").addEventListener("click", () => choose({ part: null }));

element("origin").addEventListener("input", ({ target }) => choose({ fan: Number(target.value) }));
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-series]");
  if (!button) return;
  choose({ series: Number(button.dataset.series) });
  element("one").scrollIntoView({ block: "start" });
});

/** The last steps of the chosen series, as many as can be told apart; all if there are no more. */
function lastSteps() {
  const { at } = panelOf().ahead[data.aheads[0]];
  const times = timesOf(panelOf());
  return at.length > 1.5 * STEPS ? [times[at.at(-STEPS)], times[at.at(-1)]] : null;
}

choose({ ahead: data.aheads[0], fan: Infinity, part: lastSteps() }); // the last forecast
