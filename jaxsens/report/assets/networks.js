// The table of networks, those of the figures' numbers, and the manifest.

function drawTable(page) {
  const networks = chosen(page);
  const columns = [...page.columns.values()].filter((column) => page.shown.has(column.name));
  columns.sort((a, b) => rank(page, a) - rank(page, b));
  const fixed = [
    { id: "cell", label: "network", key: (network) => network.cell, cell: nameOf },
    wholeNumber("seeds", (network) => network.rows.length),
  ];
  if (networks.some((network) => network.snapshot !== null)) {
    fixed.push(wholeNumber("epoch", (network) => network.snapshot));
  }
  const detail = (network) =>
    network.rows.map((row) => [
      make("th", { scope: "row" }, seedText(page, row) + (network.trained.includes(row) ? "" : ", diverged")),
      ...fixed.slice(1).map(() => make("td")),
      ...columns.map((column) => make("td", { class: classOf(column) }, valueText(column, row))),
    ]);
  page.table = makeTable(find("networks"), [...fixed, ...columns.map(columnOf)], networks, {
    detail,
    sorted: page.sorted,
    onSort: (sorted) => (page.sorted = sorted),
  });
  find("table-note").textContent = `${networks.length} of ${page.networks.length} rows.`;
}

function wholeNumber(label, key) {
  return { id: label, label, numeric: true, key, cell: (network) => formatNumber(key(network)) };
}

/** Settings first, then the columns in the order of the first choice, then in that of the table. */
function rank(page, column) {
  const first = page.data.first.indexOf(column.name);
  return (column.kind === "setting" ? 0 : 1e6) + (first < 0 ? 1e3 : first);
}

function nameOf(network) {
  const gone = network.rows.length - network.trained.length;
  const text = gone === network.rows.length ? "diverged" : `${gone} diverged`;
  return make("span", {}, network.cell, ...(gone ? [make("span", { class: "tag" }, text)] : []));
}

function seedText(page, row) {
  const column = page.columns.get("seed");
  return column ? `seed ${valueText(column, row)}` : "one seed";
}

const valueText = (column, row) => (column.numeric ? formatSeed(column.at[row]) : column.at[row] ?? "none");

function columnOf(column) {
  const shown = { id: column.name, label: column.label, title: column.name, numeric: column.numeric };
  if (!column.numeric || column.kind === "setting") {
    const key = (network) => (distinctValues(network, column).length === 1 ? column.at[network.rows[0]] : null);
    return { ...shown, key, cell: (network) => groupText(network, column) };
  }
  return { ...shown, key: (network) => meanOrSpecial(network, column), cell: (network) => spreadText(network, column) };
}

const distinctValues = (network, column) => [...new Set(network.rows.map((row) => column.at[row]))];

/** The mean of the finite values; where there is none, what all trained seeds have instead. */
function meanOrSpecial(network, column) {
  const { mean, count } = summary(network, column);
  const others = [...new Set(network.trained.map((row) => column.at[row]))];
  return count || others.length !== 1 ? mean : others[0];
}

function spreadText(network, column) {
  if (!network.trained.length) return "diverged";
  const found = summary(network, column);
  const all = network.trained.length;
  if (!found.count) return [...new Set(network.trained.map((row) => formatNumber(column.at[row])))].join(", ");
  return formatSpread(found) + (found.count < all ? ` (${found.count} of ${all})` : "");
}

function drawNumbers(container, entries) {
  if (!container || !entries.length) return;
  const columns = entries.map(readColumn);
  const rows = columns[0].at.map((_, row) => row);
  const shown = columns.map((column) => ({
    id: column.name,
    label: column.label,
    numeric: column.numeric,
    key: (row) => column.at[row],
    cell: (row) => (column.at[row] === null ? "" : column.numeric ? formatNumber(column.at[row], 3) : column.at[row]),
  }));
  makeTable(container, shown, rows);
}

/** The manifest, each network's part only when it is opened: there may be a thousand. */
async function showManifest() {
  const text = await unpack("manifest");
  let manifest;
  try {
    manifest = JSON.parse(text);
  } catch {
    find("manifest-text").append(make("pre", {}, text));
    return;
  }
  const { cells = {}, ...rest } = manifest;
  const parts = Object.entries(cells).map(([name, cell]) => {
    const part = make("details", {}, make("summary", {}, name));
    part.addEventListener("toggle", () => part.append(make("pre", {}, JSON.stringify(cell, null, 1))), { once: true });
    return part;
  });
  find("manifest-text").append(make("pre", {}, JSON.stringify(rest, null, 1)), ...parts);
}
