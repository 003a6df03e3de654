"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const element = (id) => document.getElementById(id);

/** A sentence in the language of the page, {} or {0}, {1}, … of which stand for the parts. */
function say(name, ...parts) {
  let next = 0;
  return data.sentences[name].replace(/{(\d*)}/g, (_, at) => parts[at || next++]);
}

/** How vega-embed draws a chart on a page. */
const embedding = () => ({
  mode: "vega-lite",
  renderer: "svg",
  actions: false,
  ast: true, // the page's policy forbids to evaluate text
  config: dark.matches ? data.dark : data.light,
  tooltip: { theme: dark.matches ? "dark" : "light" },
  logLevel: 1, // errors alone
});

/** `data-shown` of the page counts when all of it is there. */
const isShown = (number) => (document.documentElement.dataset.shown = number);

