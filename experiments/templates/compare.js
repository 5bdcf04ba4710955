// The controls of the page: every one changes `view`, and `draw` shows it. Plotly keeps zoom and hidden runs between draws.
const view = { metric: DATA.metric, axis: DATA.axis, logX: false, logY: false, raw: true, smooth: true, means: false };
const curvesPlot = document.getElementById("curves");
const coordinatesPlot = document.getElementById("coordinates");
const darkScheme = window.matchMedia("(prefers-color-scheme: dark)");
const hidden = new Set(); // numbers of runs
const BELOW = { orientation: "h", y: -0.2 }; // the legend, where there is no room beside the curves
const OPTIONS = { responsive: true, displaylogo: false };

function template() {
  return TEMPLATES[darkScheme.matches ? "dark" : "light"];
}

// One line of a run: the raw one thin and faint where a smooth one is drawn over it.
function line(curve, kind) {
  const run = DATA.runs[curve.run];
  const behind = kind === "raw" && view.smooth;
  return {
    x: curve[view.axis], y: curve[kind], name: run.label, legendgroup: String(curve.run), uid: `${kind}-${curve.run}`,
    mode: curve.raw.length < 12 ? "lines+markers" : "lines", opacity: behind ? 0.3 : 1,
    line: { color: run.colour, width: behind ? 1 : 2 }, marker: { size: 5 }, showlegend: !behind,
    hoverinfo: behind ? "skip" : undefined, visible: hidden.has(curve.run) ? "legendonly" : true,
    hovertemplate: behind ? undefined : `%{y:.5g}<extra>${escaped(run.label)}</extra>`,
  };
}

function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}

// The mean of a group on a band of one standard deviation to both sides.
function meanAndSpread(mean) {
  const found = mean[view.axis];
  if (!found) return [];
  const colour = DATA.runs[mean.run].colour;
  const shared = { x: found.x, legendgroup: `mean of ${mean.group}`, name: `mean of ${mean.group}`, mode: "lines" };
  const edge = { ...shared, line: { width: 0 }, hoverinfo: "skip", showlegend: false };
  return [
    { ...edge, y: found.low, uid: `low-${mean.run}` },
    { ...edge, y: found.high, uid: `high-${mean.run}`, fill: "tonexty", fillcolor: `${colour}40` },
    { ...shared, y: found.mean, uid: `mean-${mean.run}`, line: { color: colour, width: 3, dash: "dot" },
      hovertemplate: `%{y:.5g}<extra>mean of ${escaped(mean.group)}</extra>` },
  ];
}

function lines() {
  const kinds = ["raw", "smooth"].filter((kind) => view[kind]);
  const runs = kinds.flatMap((kind) => DATA.curves[view.metric].map((curve) => line(curve, kind)));
  return view.means ? [...DATA.means[view.metric].flatMap(meanAndSpread), ...runs] : runs;
}

function layout() {
  return {
    template: template(), margin: { t: 20, r: 10, b: 50, l: 60 }, hovermode: DATA.runs.length > 12 ? "closest" : "x unified", uirevision: "same",
    xaxis: { title: { text: view.axis }, type: view.logX ? "log" : "linear", uirevision: `${view.axis} ${view.logX}` },
    yaxis: { title: { text: view.metric }, type: view.logY ? "log" : "linear", uirevision: `${view.metric} ${view.logY}` },
    legend: { groupclick: "togglegroup", tracegroupgap: 0, ...(window.innerWidth < 700 ? BELOW : {}) }, showlegend: true,
  };
}

function draw() {
  return Plotly.react(curvesPlot, lines(), layout(), OPTIONS);
}

function drawCoordinates() {
  if (COORDINATES) {
    Plotly.react(coordinatesPlot, [COORDINATES], { template: template(), margin: { t: 60, r: 60, b: 30, l: 60 } }, OPTIONS);
  }
}

function press(button, isPressed) {
  button.setAttribute("aria-pressed", String(isPressed));
}

function switchOf(id, name) {
  const button = document.getElementById(id);
  button.addEventListener("click", () => {
    view[name] = !view[name];
    press(button, view[name]);
    draw();
  });
}

function rememberHidden() {
  for (const trace of curvesPlot.data) {
    const run = Number(trace.legendgroup);
    if (Number.isNaN(run)) continue; // the mean of a group
    if (trace.visible === "legendonly") hidden.add(run);
    else hidden.delete(run);
  }
}

function showRuns(areShown) {
  hidden.clear();
  if (!areShown) DATA.runs.forEach((_, number) => hidden.add(number));
  Plotly.restyle(curvesPlot, { visible: areShown ? true : "legendonly" });
}

document.getElementById("metric").addEventListener("change", (event) => {
  view.metric = event.target.value;
  draw();
});
for (const button of document.querySelectorAll("[data-axis]")) {
  button.addEventListener("click", () => {
    view.axis = button.dataset.axis;
    document.querySelectorAll("[data-axis]").forEach((each) => press(each, each === button));
    draw();
  });
}
switchOf("log-x", "logX");
switchOf("log-y", "logY");
switchOf("raw", "raw");
switchOf("smooth", "smooth");
if (document.getElementById("means")) switchOf("means", "means");
document.getElementById("all").addEventListener("click", () => showRuns(true));
document.getElementById("none").addEventListener("click", () => showRuns(false));
darkScheme.addEventListener("change", () => {
  draw();
  drawCoordinates();
});
draw().then(() => curvesPlot.on("plotly_restyle", rememberHidden));
drawCoordinates();
