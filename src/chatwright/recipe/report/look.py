"""The look of the page and the script that draws its figures: constants, the same for every run."""

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #d5dae0; --shade: #f4f6f8;
  --accent: #1f6fb2; --good: #1a7f4b; --bad: #b3362b; --grid: #e3e7eb; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e4e8ec; --soft: #9aa5b1; --line: #343b44;
  --shade: #1d2228; --accent: #6db3ee; --good: #5cc992; --bad: #f0857a; --grid: #2b3138; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: break-word;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 68rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 2rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.35rem; margin: 3rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
p { margin: .6rem 0; max-width: 48rem; }
a { color: var(--accent); }
.lead { font-size: 1.1rem; } .soft { color: var(--soft); margin: 0; }
.note { color: var(--soft); font-size: .86rem; margin-top: .35rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; list-style: none; padding: 0; margin: 1rem 0 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); gap: .9rem;
  margin: 1.25rem 0; padding: 0; list-style: none; }
.card { background: var(--shade); border: 1px solid var(--line); border-radius: .6rem; padding: .9rem 1.1rem; }
.card strong { display: block; font-size: 2rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.card span { display: block; font-weight: 600; }
.card small { display: block; color: var(--soft); font-size: .86rem; }
.scroll { overflow-x: auto; margin: .9rem 0 .3rem; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; min-width: min(100%, 24rem); }
caption { text-align: left; font-weight: 600; padding: 0 0 .35rem; }
caption span { position: sticky; left: 0; display: inline-block; max-width: calc(100vw - 2rem); }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 500; } thead th { color: var(--soft); font-size: .84rem; vertical-align: bottom; }
.number { text-align: right; white-space: nowrap; } thead .number { white-space: normal; }
td:not(.number) { min-width: 16rem; } tbody th { min-width: 6.5rem; }
tbody th:has(code) { min-width: 14rem; } th small { display: block; color: var(--soft); }
.bar { display: inline-block; width: 6rem; height: .6rem; border-radius: .2rem; vertical-align: middle;
  background: linear-gradient(to right, var(--accent) calc(var(--share) * 100%), var(--grid) 0); }
.share { display: inline-block; min-width: 3.6rem; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .86em; }
code { overflow-wrap: anywhere; }
pre { background: var(--shade); border: 1px solid var(--line); border-radius: .4rem; padding: .7rem .9rem;
  overflow-x: auto; }
pre.text { white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--accent); }
figure { margin: 1rem 0; min-width: 0; } figcaption { font-weight: 600; }
.plot { width: 100%; min-height: 20rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 0 1.5rem; }
.switch { display: inline-flex; border: 1px solid var(--line); border-radius: .4rem; overflow: hidden;
  margin: .4rem 0; }
.switch button { font: inherit; font-size: .88rem; border: 0; padding: .3rem .8rem; cursor: pointer;
  background: var(--paper); color: var(--ink); }
.switch button[aria-pressed="true"] { background: var(--accent); color: var(--paper); }
.asked { border: 1px solid var(--line); border-left: .3rem solid var(--line); border-radius: .4rem;
  padding: .6rem .9rem; margin: .7rem 0; }
.asked.right { border-left-color: var(--good); } .asked.wrong { border-left-color: var(--bad); }
.asked dl { display: grid; grid-template-columns: minmax(5.5rem, max-content) 1fr; gap: .2rem .9rem; margin: 0; }
.asked dt { color: var(--soft); } .asked dd { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
.verdict { font-weight: 600; } .right .verdict { color: var(--good); } .wrong .verdict { color: var(--bad); }
@media (max-width: 34rem) { .asked dl { grid-template-columns: 1fr; gap: 0; } .asked dd { margin-bottom: .5rem; } }
.chain { list-style: none; padding: 0; margin: 1rem 0; }
.chain > li { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .9rem; background: var(--shade); }
.chain > li + li { margin-top: 1.6rem; position: relative; }
.chain > li + li::before { content: "\\2193"; position: absolute; top: -1.55rem; left: 1.2rem; color: var(--soft); }
.chain p { margin: .15rem 0; max-width: none; } .chain .note { margin: .15rem 0; }
footer { color: var(--soft); font-size: .86rem; margin-top: 3rem; padding-bottom: 3rem; }
@media print { nav, .switch { display: none; } }
"""

# Draws each figure from the JSON beside it, in the colours of the page, and again when those change.
SCRIPT = """
(() => {
  "use strict";
  const settings = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const figures = new Map();
  const themed = (layout) => {
    const copy = structuredClone(layout);
    copy.font = { family: "system-ui, sans-serif", size: 13, color: colour("--ink") };
    copy.paper_bgcolor = copy.plot_bgcolor = "rgba(0,0,0,0)";
    copy.hoverlabel = { bgcolor: colour("--shade"), bordercolor: colour("--line"), font: { color: colour("--ink") } };
    copy.modebar = { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--accent") };
    for (const key of Object.keys(copy).filter((name) => /^[xy]axis/.test(name))) {
      copy[key].gridcolor = colour("--grid");
      copy[key].linecolor = colour("--line");
    }
    return copy;
  };
  const draw = () => {
    for (const [place, figure] of figures) Plotly.react(place, figure.data, themed(figure.layout), settings);
  };
  for (const place of document.querySelectorAll("[data-figure]")) {
    figures.set(place, JSON.parse(document.getElementById(place.dataset.figure).textContent));
  }
  const along = (group, name) => {
    for (const button of group.querySelectorAll("button[data-axis]")) {
      button.setAttribute("aria-pressed", String(button.dataset.axis === name));
    }
    for (const [place, figure] of figures) {
      if (!group.contains(place) || !figure.axes) continue;
      figure.data.forEach((trace, index) => { trace.x = figure.axes[name].x[index]; });
      figure.layout.xaxis.title = { text: figure.axes[name].title };
      Plotly.react(place, figure.data, themed(figure.layout), settings);
    }
  };
  for (const button of document.querySelectorAll("button[data-axis]")) {
    button.addEventListener("click", () => along(button.closest(".curves"), button.dataset.axis));
  }
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
"""
