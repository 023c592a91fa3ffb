// Tables that are sorted by their headers. No value of a file becomes HTML: texts are set as texts.

/** An element with attributes (true: there without a value, false or null: not there) and children. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

const classOf = (column) => (column.numeric ? "number" : null);

/** Numbers by size, then texts by their letters and numbers; NaN and what is none last, whichever the direction. */
function compareKeys(a, b, direction) {
  const isLast = (key) => key === null || key === undefined || Number.isNaN(key);
  if (isLast(a) || isLast(b)) return isLast(a) - isLast(b);
  if (typeof a === "number" && typeof b === "number") return direction * (a > b ? 1 : a < b ? -1 : 0);
  return direction * String(a).localeCompare(String(b), "en", { numeric: true });
}

/**
 * A table in a container. A header sorts by its column, ascending and then descending; equal rows stay in the
 * order they had.
 *
 * columns: {id, label, title, numeric, key(row) to sort by, cell(row) to show, a text or an element}.
 * detail(row): rows of the table under one that was opened, made when they are first asked for.
 */
function makeTable(container, columns, rows, { detail = null, sorted = null, onSort = () => {} } = {}) {
  const body = make("tbody");
  const headers = columns.map((column) => makeHeader(column));
  let order = [...rows];
  const lines = new Map(rows.map((row) => [row, makeLine(row)]));

  function makeHeader(column) {
    const button = make("button", { type: "button", title: column.title ?? null }, column.label);
    const header = make("th", { scope: "col", class: classOf(column), "aria-sort": "none" }, button);
    button.addEventListener("click", () => {
      sort(column.id, header.getAttribute("aria-sort") === "ascending" ? -1 : 1);
    });
    return header;
  }

  function sort(id, direction) {
    const index = columns.findIndex((column) => column.id === id);
    if (index < 0) return;
    const keys = new Map(order.map((row) => [row, columns[index].key(row)]));
    order.sort((a, b) => compareKeys(keys.get(a), keys.get(b), direction));
    headers.forEach((header) => header.setAttribute("aria-sort", "none"));
    headers[index].setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    onSort({ id, direction });
    fill();
  }

  function fill() {
    body.replaceChildren(...order.flatMap((row) => lines.get(row)));
  }

  function makeLine(row) {
    const cells = columns.map((column, index) => {
      const shown = column.cell(row);
      if (index) return make("td", { class: classOf(column) }, shown);
      return make("th", { scope: "row", class: classOf(column) }, detail ? opener(row, shown) : shown);
    });
    return [make("tr", {}, ...cells)];
  }

  function opener(row, shown) {
    const button = make("button", { type: "button", class: "opener", "aria-expanded": "false" }, shown);
    button.addEventListener("click", () => open(row, button.getAttribute("aria-expanded") !== "true"));
    return button;
  }

  /** Shows or hides the detail of a row; gives its line, or nothing if the table has no such row. */
  function open(row, wanted) {
    const line = lines.get(row);
    if (!line) return null;
    const [first] = line;
    if (wanted && line.length === 1) {
      line.push(...detail(row).map((cells) => make("tr", { class: "seed" }, ...cells)));
      first.after(...line.slice(1));
    } else if (!wanted) {
      line.splice(1).forEach((extra) => extra.remove());
    }
    first.querySelector(".opener").setAttribute("aria-expanded", String(wanted));
    return first;
  }

  container.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...headers)), body));
  if (sorted && columns.some((column) => column.id === sorted.id)) sort(sorted.id, sorted.direction);
  else fill();
  return { open };
}
