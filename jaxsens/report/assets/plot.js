// The scatter plot, drawn by Plotly: a point a network, whiskers from its least seed to its greatest.

/** For Plotly's texts, which know some HTML. */
const escapeText = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

/** The page's colours as they are now: light, dark or on paper. */
function pageColours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(
    ["ink", "muted", "rule", "paper", "surface"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]),
  );
}

/** What of a layout the colours decide. */
function themeOf(colours) {
  const axis = { color: colours.ink, gridcolor: colours.rule, linecolor: colours.muted, tickcolor: colours.muted };
  return { font: { color: colours.ink }, xaxis: axis, yaxis: axis, hoverlabel: {
    bgcolor: colours.surface, bordercolor: colours.muted, font: { color: colours.ink },
  } };
}

/** Draws the points (see pointOf) in groups of one colour; lines join the points of one cell if asked. */
function drawPlot(element, { points, x, y, groupOf, groups, lines, joined, look, hoverText }) {
  const colours = pageColours();
  const family = getComputedStyle(document.body).fontFamily;
  const small = element.clientWidth < 620;
  const many = points.length > 300;
  const traces = groups.map((group, index) => {
    const own = withGaps(points.filter((point) => groupOf(point.network) === group), joined);
    const colour = look.colours[index % look.colours.length];
    return {
      type: "scatter",
      mode: joined ? "lines+markers" : "markers",
      name: escapeText(group),
      x: own.map((point) => point?.x.mean ?? null),
      y: own.map((point) => point?.y.mean ?? null),
      error_x: whiskers(own, "x", colour),
      error_y: whiskers(own, "y", colour),
      text: own.map((point) => (point ? hoverText(point) : "")),
      customdata: own.map((point) => (point ? point.network.index : null)),
      hovertemplate: "%{text}<extra></extra>",
      line: { color: colour, width: 1 },
      marker: {
        color: colour,
        symbol: look.symbols[index % look.symbols.length],
        size: many || joined ? 6 : 9,
        opacity: many ? 0.65 : 0.9,
        line: { width: many || joined ? 0 : 0.8, color: colours.paper },
      },
    };
  });
  for (const line of lines) {
    const dash = { color: colours.ink, width: 1.2, dash: "dash" };
    const [x, y] = [line.xs, line.ys];
    traces.push({ type: "scatter", mode: "lines", name: line.label, x, y, line: dash, hoverinfo: "skip" });
  }
  const theme = themeOf(colours);
  const below = small || greatest(groups.map((group) => group.length)) > 34;
  const layout = {
    ...theme,
    font: { ...theme.font, family, size: 13 },
    xaxis: { ...theme.xaxis, ...axisOf(x, points.map((point) => point.x), small) },
    yaxis: { ...theme.yaxis, ...axisOf(y, [...points.map((point) => point.y), ...reach(lines, points)], small) },
    hoverlabel: { ...theme.hoverlabel, align: "left", font: { ...theme.hoverlabel.font, family, size: 12 } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colours.muted, activecolor: colours.ink },
    hovermode: "closest",
    showlegend: groups.length + lines.length > 1,
    legend: below
      ? { orientation: "h", x: 0, xanchor: "left", yref: "container", y: 0, yanchor: "bottom", maxheight: 1 }
      : { x: 1.01, y: 1, yanchor: "top", tracegroupgap: 0 },
    height: (small ? 370 : 540) + (below ? 20 * legendLines(groups, lines, element.clientWidth) : 0),
    margin: { l: small ? 52 : 68, r: 12, t: small ? 12 : 34, b: 56 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
  };
  return Plotly.react(element, traces, layout, {
    displaylogo: false,
    responsive: true,
    // By name: Plotly's own choice has a button that sends the plot to its maker.
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    displayModeBar: small ? false : "hover",
  });
}

/** How far the lines reach up and down over the points, which the vertical axis is to show. */
function reach(lines, points) {
  const [low, high] = [least(points.map((point) => point.x.low)), greatest(points.map((point) => point.x.high))];
  return lines.flatMap((line) => {
    const over = line.ys.filter((_, i) => line.xs[i] >= low && line.xs[i] <= high);
    return over.length ? [{ low: least(over), high: greatest(over) }] : [];
  });
}

/** How many lines a legend below the plot has, at 8 pixels a letter and 50 for a marker. */
function legendLines(groups, lines, width) {
  const names = [...groups, ...lines.map((line) => line.label)];
  const inLine = Math.max(1, Math.floor(width / (8 * greatest(names.map((name) => name.length)) + 50)));
  return names.length > 1 ? Math.ceil(names.length / inLine) : 0;
}

/** In the order of epochs, with a gap after each cell, where lines are to join the points of one. */
function withGaps(points, joined) {
  if (!joined) return points;
  const cells = [...new Set(points.map((point) => point.network.cell))];
  const epochs = [...points].sort((a, b) => a.network.snapshot - b.network.snapshot);
  return cells.flatMap((cell) => [...epochs.filter((point) => point.network.cell === cell), null]);
}

function whiskers(points, name, colour) {
  const lengths = (end) => points.map((point) => (point ? Math.abs(point[name][end] - point[name].mean) : 0));
  const [array, arrayminus] = [lengths("high"), lengths("low")];
  const visible = [...array, ...arrayminus].some((length) => length > 0);
  return { type: "data", symmetric: false, array, arrayminus, visible, color: `${colour}80`, thickness: 1, width: 0 };
}

function axisOf({ column, log }, spreads, small) {
  const [low, high] = [least(spreads.map((one) => one.low)), greatest(spreads.map((one) => one.high))];
  return {
    title: { text: escapeText(column.label), standoff: small ? 6 : 12 },
    type: log ? "log" : "linear",
    range: spreads.length ? padded(low, high, log) : undefined,
    showline: true,
    zeroline: false,
    ticks: "outside",
    ticklen: 4,
    exponentformat: "power",
    minexponent: 4,
    ...(log ? logTicks(low, high) : { nticks: 8 }),
    automargin: true,
  };
}

/** Labels as the figures have them: even steps in a short range, then 1, 2 and 5, then powers of ten. */
function logTicks(low, high) {
  const decades = Math.log10(high / low);
  if (decades < 0.7) return { nticks: 8, minor: {} };
  const minor = { ticks: "outside", ticklen: 2, dtick: "D1" };
  if (decades < 2.5) return { dtick: "D2", tickformat: "~g", minor };
  const tickformat = low >= 1e-3 && high < 1e4 ? "~g" : undefined;
  return { dtick: Math.ceil(decades / 7), tickformat, minor: decades < 7 ? minor : {} };
}

/** The range with 6 % on either side, and 5 % of the value at least, as the figures have it. */
function padded(low, high, log) {
  if (log) {
    const margin = Math.max(0.06 * Math.log10(high / low), Math.log10(1.05));
    return [Math.log10(low) - margin, Math.log10(high) + margin];
  }
  const margin = Math.max(0.06 * (high - low), (0.05 * (Math.abs(low) + Math.abs(high))) / 2) || 1;
  return [low - margin, high + margin];
}

/** New colours for the same drawing, when the page turns dark, light or to paper; `width` for paper alone. */
function recolour(element, width) {
  if (!element.data) return;
  const colours = pageColours();
  const changes = { "font.color": colours.ink, width: width ?? null, autosize: !width };
  for (const axis of ["xaxis", "yaxis"]) {
    changes[`${axis}.color`] = colours.ink;
    changes[`${axis}.gridcolor`] = colours.rule;
    changes[`${axis}.linecolor`] = changes[`${axis}.tickcolor`] = colours.muted;
  }
  changes["hoverlabel.bgcolor"] = colours.surface;
  changes["hoverlabel.bordercolor"] = colours.muted;
  changes["hoverlabel.font.color"] = colours.ink;
  Plotly.relayout(element, changes);
  const dashed = element.data.flatMap((trace, index) => (trace.mode === "lines" ? [index] : []));
  const marked = element.data.flatMap((trace, index) => (trace.marker ? [index] : []));
  if (dashed.length) Plotly.restyle(element, { "line.color": colours.ink }, dashed);
  if (marked.length) Plotly.restyle(element, { "marker.line.color": colours.paper }, marked);
}
