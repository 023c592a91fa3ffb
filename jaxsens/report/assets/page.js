// What the page does: fills the selects, draws what they say, and answers to clicks.

const find = (id) => document.getElementById(id);
const KINDS = { measure: "Measures", setting: "Settings", error: "Standard errors", time: "Seconds" };
// As many as differ in colour or marker.
const MOST_GROUPS = 18;
const PAPER_WIDTH = 680;

async function start() {
  const data = JSON.parse(await unpack("data"));
  data.tables.forEach((entries, index) => drawNumbers(find(`numbers-${index}`), entries));
  find("manifest")?.addEventListener("toggle", showManifest, { once: true });
  if (!find("controls")) return;
  const page = readPage(data);
  fillControls(page);
  drawTable(page);
  await loadPlotly();
  draw(page);
  wire(page);
  document.documentElement.dataset.ready = "yes";
}

function readPage(data) {
  const columns = new Map(data.columns.map((entry) => [entry.name, readColumn(entry)]));
  const networks = networksOf(columns);
  networks.forEach((network, index) => (network.index = index));
  return { data, columns, networks, shown: new Set(data.first), table: null, sorted: null };
}

async function loadPlotly() {
  document.head.append(make("script", {}, await unpack("plotly")));
}

// Controls

function fillControls(page) {
  const all = [...page.columns.values()];
  const axes = all.filter((column) => column.numeric && column.kind !== "id");
  for (const select of [find("x"), find("y")]) select.append(...optionsByKind(axes));
  const coloured = all.filter((column) => column.kind === "setting" && distinct(page, column).length <= MOST_GROUPS);
  find("colour").append(new Option("one for all", ""), ...coloured.map(({ name, label }) => new Option(label, name)));
  const preferred = ["family", "model", "dataset"].find((name) => coloured.some((column) => column.name === name));
  find("colour").value = preferred ?? "";
  const ends = page.networks.filter((network) => network.snapshot === null).length;
  if (ends) find("when").append(new Option("at the end of training", "end"));
  if (ends < page.networks.length) find("when").append(new Option("on the way", "way"));
  find("when-control").hidden = find("when").length < 2;
  if (page.data.pairs.length) setAxes(page, ...page.data.pairs[0]);
  find("pairs").append(...page.data.pairs.map(([x, y]) => pairButton(page, x, y)));
  find("pairs").hidden = page.data.pairs.length < 2;
  find("columns").append(...columnBoxes(page, all));
}

function optionsByKind(columns) {
  return Object.entries(KINDS).flatMap(([kind, label]) => {
    const own = columns.filter((column) => column.kind === kind);
    return own.length ? [make("optgroup", { label }, ...own.map((one) => new Option(one.label, one.name)))] : [];
  });
}

function columnBoxes(page, columns) {
  return Object.entries(KINDS).flatMap(([kind, label]) => {
    const own = columns.filter((column) => column.kind === kind);
    const boxes = own.map(({ name, label: text }) => {
      const box = make("input", { type: "checkbox", value: name, checked: page.shown.has(name) });
      return make("label", { class: "check", title: name }, box, ` ${text}`);
    });
    return own.length ? [make("fieldset", {}, make("legend", {}, label), ...boxes)] : [];
  });
}

function pairButton(page, x, y) {
  const text = `${page.columns.get(y).label} against ${page.columns.get(x).label}`;
  const button = make("button", { type: "button", class: "pair" }, text);
  button.dataset.axes = `${x} ${y}`;
  button.addEventListener("click", () => {
    setAxes(page, x, y);
    draw(page);
  });
  return button;
}

function setAxes(page, x, y) {
  for (const [axis, name] of [["x", x], ["y", y]]) {
    find(axis).value = name;
    setScale(page, axis);
  }
}

/** Logarithmic where values are positive, a few zeros apart, and far from each other; losses and norms less far. */
function setScale(page, axis) {
  const column = page.columns.get(find(axis).value);
  const finite = column.at.filter(Number.isFinite);
  const positive = finite.filter((value) => value > 0);
  const usually = /loss$|sensitivity|norm/.test(column.name) && !column.name.startsWith("log_");
  const never = /gap$|accuracy$|error$|^epochs$/.test(column.name) || finite.some((value) => value < 0);
  const far = greatest(positive) / least(positive) >= (usually ? 1.5 : 20);
  find(`log-${axis}`).checked = !never && far && positive.length > 0.8 * finite.length;
}

const distinct = (page, column) => [...new Set(page.networks.map((network) => groupText(network, column)))];

/** What colour a network has: the value that its seeds share. */
function groupText(network, column) {
  const values = new Set(network.rows.map((row) => column.at[row]));
  if (values.size > 1) return "several";
  const [value] = values;
  return column.numeric ? formatNumber(value) : value ?? "none";
}

function chosen(page) {
  const word = find("filter").value.trim().toLowerCase();
  const onTheWay = find("when").value === "way";
  const texts = [...page.columns.values()].filter((column) => !column.numeric && column.kind === "setting");
  const says = (network) =>
    network.cell.toLowerCase().includes(word) ||
    texts.some((column) => String(column.at[network.rows[0]]).toLowerCase().includes(word));
  return page.networks.filter((network) => (network.snapshot !== null) === onTheWay && (!word || says(network)));
}

// Plot

function draw(page) {
  if (!find("x").value) return;
  const [x, y] = ["x", "y"].map((axis) => ({
    column: page.columns.get(find(axis).value),
    log: find(`log-${axis}`).checked,
  }));
  const networks = chosen(page);
  const points = networks.map((network) => pointOf(network, x, y)).filter(Boolean);
  const column = page.columns.get(find("colour").value);
  const groupOf = (network) => (column ? groupText(network, column) : "all");
  const named = column ? distinct(page, column) : ["all"];
  if (column?.numeric) named.sort((a, b) => compareKeys(Number(a), Number(b), 1));
  const present = new Set(points.map((point) => groupOf(point.network)));
  const groups = named.filter((group) => present.has(group));
  // A group keeps its colour when others are filtered out.
  const at = groups.map((group) => named.indexOf(group));
  const look = Object.fromEntries(
    ["colours", "symbols"].map((kind) => [kind, at.map((i) => page.data[kind][i % page.data[kind].length])]),
  );
  const lines = page.data.lines.filter((line) => line.x === x.column.name && line.y === y.column.name);
  const joined = find("when").value === "way";
  drawPlot(find("plot"), {
    points, x, y, groupOf, groups, lines, joined, look,
    hoverText: (point) => hoverText(page, point, x, y),
  });
  page.drawn = { points, x, y, groups, groupOf, members: sum(networks.map((network) => network.rows.length)) };
  writeNote(page);
  for (const button of find("pairs").children) {
    button.setAttribute("aria-pressed", button.dataset.axes === `${x.column.name} ${y.column.name}`);
  }
}

/** The network, its coordinates, other measures, and each seed. */
function hoverText(page, { network, used, x: across, y: up }, x, y) {
  const range = ({ mean, low, high }) =>
    formatNumber(mean) + (high > low ? ` (${formatNumber(low)} to ${formatNumber(high)})` : "");
  const when = network.snapshot === null ? "" : `, epoch ${network.snapshot}`;
  const lines = [`<b>${escapeText(network.cell)}</b>${when}`];
  lines.push(`${escapeText(y.column.label)}: ${range(up)}`, `${escapeText(x.column.label)}: ${range(across)}`);
  for (const name of page.data.first) {
    const column = page.columns.get(name);
    if (column.numeric && column !== x.column && column !== y.column) {
      lines.push(`${escapeText(column.label)}: ${formatSpread(summary(network, column))}`);
    }
  }
  const most = 10;
  for (const row of used.slice(0, most)) {
    const [a, b] = [x, y].map(({ column }) => formatNumber(column.at[row]));
    lines.push(seedText(page, row) + (used.length > 1 ? `: ${b} against ${a}` : ""));
  }
  if (used.length > most) lines.push(`and ${used.length - most} more seeds`);
  return lines.join("<br>");
}

/** How many are drawn, what they correlate, and how many are not; of the groups that the legend shows. */
function writeNote(page) {
  const { points, x, y, groups, groupOf, members } = page.drawn;
  const hidden = new Set(
    find("plot").data.flatMap((trace, index) => (trace.visible === "legendonly" ? [groups[index]] : [])),
  );
  const shown = points.filter((point) => !hidden.has(groupOf(point.network)));
  const place = (spreadOf, log) => (log ? Math.log(spreadOf.mean) : spreadOf.mean);
  const [across, up] = [shown.map((point) => place(point.x, x.log)), shown.map((point) => place(point.y, y.log))];
  const [tau, rho] = [kendall(across, up), pearson(across, up)];
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  const said = [plural(shown.length, find("when").value === "way" ? "point" : "network")];
  if (Number.isFinite(tau)) {
    said.push(`Kendall’s τ ${tau.toFixed(2)}, Pearson’s ρ of what the axes show ${rho.toFixed(2)}`);
  }
  const seeds = greatest(shown.map((point) => point.used.length));
  if (seeds > 1) {
    const geometric = x.log || y.log ? ", geometric on logarithmic axes" : "";
    said.push(`a point is a mean over seeds${geometric}, whiskers reach from the least seed to the greatest`);
  }
  const leftOut = members - sum(points.map((point) => point.used.length));
  if (leftOut) said.push(`${plural(leftOut, "seed")} left out, diverged or without a place on these axes`);
  find("plot-note").textContent = `${said.join("; ")}.`;
}

// Events

function wire(page) {
  const redraw = () => draw(page);
  for (const axis of ["x", "y"]) {
    find(axis).addEventListener("change", () => {
      setScale(page, axis);
      redraw();
    });
    find(`log-${axis}`).addEventListener("change", redraw);
  }
  find("colour").addEventListener("change", redraw);
  const both = () => {
    drawTable(page);
    redraw();
  };
  find("when").addEventListener("change", both);
  let waiting;
  find("filter").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(both, 150);
  });
  find("columns").addEventListener("change", ({ target }) => {
    if (target.checked) page.shown.add(target.value);
    else page.shown.delete(target.value);
    drawTable(page);
  });
  find("plot").on?.("plotly_restyle", () => writeNote(page));
  find("plot").on?.("plotly_click", ({ points }) => {
    page.table.open(page.networks[points[0].customdata], true)?.scrollIntoView({ block: "center" });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => recolour(find("plot")));
  // Told by the element, since the style for paper is not yet in force when the event comes.
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.paper = "yes";
    recolour(find("plot"), PAPER_WIDTH);
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.paper;
    recolour(find("plot"));
  });
}

start().catch((error) => {
  const failure = find("failure");
  failure.hidden = false;
  failure.textContent = `The plot and the tables could not be drawn (${error.message}); a browser of 2023 or later can.`;
  throw error;
});
