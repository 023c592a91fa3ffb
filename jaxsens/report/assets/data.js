"use strict";
// What the page holds: unpacked, gathered into networks, and summarised as the figures and tables do.

/** The text that Python packed (gzip, base64) into the element of this name. */
async function unpack(name) {
  const letters = atob(document.getElementById(`packed-${name}`).textContent);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

const SPECIAL = { nan: NaN, inf: Infinity, "-inf": -Infinity };

/** A column with `at`, its value in each row: a number, a text or null. */
function readColumn(entry) {
  const numeric = Boolean(entry.values);
  const at = numeric
    ? entry.values.map((value) => (typeof value === "string" ? SPECIAL[value] : value))
    : entry.codes.map((code) => (code < 0 ? null : entry.texts[code]));
  return { name: entry.name, label: entry.label, kind: entry.kind, numeric, at };
}

/** One network for each cell and snapshot; `trained` are the rows that did not diverge. */
function networksOf(columns) {
  const [cell, snapshot, diverged] = ["cell", "snapshot", "diverged"].map((name) => columns.get(name));
  const found = new Map();
  const rows = columns.size ? columns.values().next().value.at.length : 0;
  for (let row = 0; row < rows; row++) {
    const name = cell?.at[row] ?? `row ${row + 1}`;
    const when = snapshot?.at[row] ?? null;
    const key = JSON.stringify([name, when]);
    if (!found.has(key)) found.set(key, { cell: String(name), snapshot: when, rows: [], trained: [] });
    found.get(key).rows.push(row);
    if (diverged?.at[row] !== "true") found.get(key).trained.push(row);
  }
  return [...found.values()];
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
const least = (values) => values.reduce((low, value) => Math.min(low, value), Infinity);
const greatest = (values) => values.reduce((high, value) => Math.max(high, value), -Infinity);

/** Mean, and standard deviation (divisor n - 1), of the finite values of trained rows; as Table.aggregate. */
function summary(network, column) {
  const used = network.trained.map((row) => column.at[row]).filter(Number.isFinite);
  const count = used.length;
  if (!count) return { mean: NaN, std: null, count };
  // Rounding would give a number that all seeds share a spread.
  const same = used.every((value) => value === used[0]);
  const mean = same ? used[0] : sum(used) / count;
  // In units of the largest deviation, whose square could be 0 or infinite.
  const unit = greatest(used.map((value) => Math.abs(value - mean))) || 1;
  const squares = sum(used.map((value) => ((value - mean) / unit) ** 2));
  return { mean, std: count > 1 ? unit * Math.sqrt(squares / (count - 1)) : null, count };
}

/** The point of a network, as figure_one_points: geometric means on logarithmic axes; null where it has none. */
function pointOf(network, x, y) {
  const hasPlace = (value, log) => Number.isFinite(value) && (value > 0 || !log);
  const used = network.trained.filter(
    (row) => hasPlace(x.column.at[row], x.log) && hasPlace(y.column.at[row], y.log),
  );
  if (!used.length) return null;
  const [across, up] = [x, y].map(({ column, log }) => spread(used.map((row) => column.at[row]), log));
  return { network, used, x: across, y: up };
}

function spread(values, log) {
  const [low, high] = [least(values), greatest(values)];
  const mean = log ? Math.exp(sum(values.map(Math.log)) / values.length) : sum(values) / values.length;
  return { mean: Math.min(Math.max(mean, low), high), low, high };
}

/** Pearson's coefficient; NaN for fewer than 3 points or a constant. */
function pearson(x, y) {
  if (x.length < 3) return NaN;
  const [middle, centre] = [sum(x) / x.length, sum(y) / y.length];
  const together = sum(x.map((value, i) => (value - middle) * (y[i] - centre)));
  const [width, height] = [sum(x.map((value) => (value - middle) ** 2)), sum(y.map((value) => (value - centre) ** 2))];
  return together / Math.sqrt(width * height);
}

/** Kendall's tau-b; NaN for fewer than 3 points or a constant. */
function kendall(x, y) {
  if (x.length < 3) return NaN;
  let [agreement, untiedX, untiedY] = [0, 0, 0];
  for (let i = 0; i < x.length; i++) {
    for (let j = 0; j < i; j++) {
      const [across, up] = [Math.sign(x[i] - x[j]), Math.sign(y[i] - y[j])];
      agreement += across * up;
      untiedX += across !== 0;
      untiedY += up !== 0;
    }
  }
  return agreement / Math.sqrt(untiedX * untiedY);
}

/** A number for people: 4 digits unless told, whole numbers whole, and what is none by its name. */
function formatNumber(value, digits = 4) {
  if (value === null || value === undefined) return "none";
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e15) return String(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(digits - 1).replace("e+", "e") : value.toPrecision(digits);
}

/** One seed's number: 7 digits, without zeros at the end. */
function formatSeed(value) {
  return Number.isFinite(value) ? String(Number(value.toPrecision(7))) : formatNumber(value);
}

/** "0.647 ± 0.012", to two digits of the deviation; "(1.23 ± 0.11)e-5" where the mean is small or large. */
function formatSpread({ mean, std }) {
  if (std === null || std === 0) return formatNumber(mean) + (std === 0 ? " ± 0" : "");
  const size = Math.max(Math.abs(mean), std);
  const power = size >= 1e5 || size < 1e-3 ? Math.floor(Math.log10(size)) : 0;
  if (Math.abs(power) > 290) return `${formatNumber(mean)} ± ${formatNumber(std, 2)}`;
  const [centre, width] = [mean, std].map((value) => value / 10 ** power);
  const decimals = Math.min(Math.max(1 - Math.floor(Math.log10(width)), 0), 6);
  const widthText = width < 1e-5 ? width.toPrecision(2) : width.toFixed(decimals);
  const text = `${centre.toFixed(decimals)} ± ${widthText}`;
  return power ? `(${text})e${power}` : text;
}
