// A table with a filter, sorting and a bound on its rows: it stays quick with a thousand of them. Rows keep their
// elements while they are shown, so that the focus stays where it is.

import { element } from "./format.js";

const FIRST_ROWS = 100;
const MOST_ROWS = 1000;

export class Table {
  // `columns`: [{name, title, text(row), node(row), sort(row), kind}]; a column has `text`, or `node` with `text` for
  // the filter and for sorting. `actions(row)` returns [{label, run, kind}].
  constructor(title, columns, { actions = null, sort = null, descending = false, empty = "none", tools = [] } = {}) {
    this.columns = columns;
    this.actions = actions;
    this.sortBy = columns.find((one) => one.name === sort) || null;
    this.descending = descending;
    this.limit = FIRST_ROWS;
    this.shown = new Map();
    this.body = element("tbody");
    this.filter = element("input", {
      class: "filter", type: "search", placeholder: "Filter", "aria-label": `Filter ${title.toLowerCase()}`,
      oninput: () => { this.limit = FIRST_ROWS; this.draw(); },
    });
    this.count = element("span", { class: "dim" });
    this.empty = element("p", { class: "empty" }, empty);
    this.moreText = element("span");
    this.moreButton = element("button", { type: "button", onclick: () => { this.limit = MOST_ROWS; this.draw(); } }, "Show all");
    this.more = element("div", { class: "more" }, this.moreText, this.moreButton);
    this.heads = columns.map((column) => this.head(column));
    if (actions) this.heads.push(element("th", { class: "actions", scope: "col" }, "Actions"));
    this.table = element("table", {}, element("thead", {}, element("tr", {}, ...this.heads)), this.body);
    this.node = element("section", { class: "panel", "aria-label": title },
      element("div", { class: "bar" }, element("h2", {}, title), this.count, element("span", { class: "space" }),
        ...tools, this.filter),
      this.empty, element("div", { class: "scroll" }, this.table), this.more);
    this.rows = [];
    this.mark();
  }

  head(column) {
    const sorts = element("button", { type: "button", onclick: () => {
      this.descending = this.sortBy === column ? !this.descending : column.kind === "number";
      this.sortBy = column;
      this.mark();
      this.draw();
    } }, column.title);
    return element("th", { class: column.kind === "number" ? "number" : null, scope: "col" }, sorts);
  }

  mark() {
    this.columns.forEach((column, at) => {
      if (column === this.sortBy) this.heads[at].setAttribute("aria-sort", this.descending ? "descending" : "ascending");
      else this.heads[at].removeAttribute("aria-sort");
    });
  }

  render(rows) {
    this.rows = rows;
    this.draw();
  }

  draw() {
    const wanted = this.filter.value.trim().toLowerCase();
    let rows = this.rows;
    if (wanted) {
      rows = rows.filter((row) => this.columns.some((one) => String(one.text(row) ?? "").toLowerCase().includes(wanted)));
    }
    if (this.sortBy) {
      const value = this.sortBy.sort || this.sortBy.text;
      const sign = this.descending ? -1 : 1;
      rows = [...rows].sort((one, other) => sign * compare(value(one), value(other)));
    }
    const visible = rows.slice(0, this.limit);
    const keys = new Set(visible.map((row) => row.key));
    for (const [key, shown] of this.shown) {
      if (!keys.has(key)) {
        shown.node.remove();
        this.shown.delete(key);
      }
    }
    visible.forEach((row, at) => {
      let shown = this.shown.get(row.key);
      if (!shown) this.shown.set(row.key, shown = this.row());
      this.update(shown, row);
      if (this.body.children[at] !== shown.node) this.body.insertBefore(shown.node, this.body.children[at] || null);
    });
    this.columns.forEach((_, at) => { // a column without any text takes no room
      const isBlank = visible.every((row) => this.shown.get(row.key).texts[at] === "");
      this.heads[at].hidden = isBlank;
      for (const { cells } of this.shown.values()) cells[at].hidden = isBlank;
    });
    this.count.textContent = wanted ? `${rows.length} of ${this.rows.length}` : String(this.rows.length);
    this.empty.hidden = visible.length > 0;
    this.table.hidden = visible.length === 0;
    this.more.hidden = rows.length <= visible.length;
    this.moreText.textContent = `${visible.length} of ${rows.length} rows are shown.`;
  }

  row() {
    const cells = this.columns.map((column) => element("td", { class: column.kind || null, "data-label": column.title }));
    const node = element("tr", {}, ...cells);
    const shown = { node, cells, texts: [], row: null, actions: null, labels: "" };
    if (this.actions) {
      shown.actions = element("span");
      node.append(element("td", { class: "actions", "data-label": "Actions" }, shown.actions));
    }
    return shown;
  }

  update(shown, row) {
    shown.row = row;
    this.columns.forEach((column, at) => {
      const text = String(column.text(row) ?? "");
      if (shown.texts[at] === text) return;
      shown.texts[at] = text;
      const cell = shown.cells[at];
      if (column.node) cell.replaceChildren(column.node(row));
      else cell.textContent = text;
      cell.classList.toggle("blank", text === "");
      if (column.kind === "text") cell.title = text;
    });
    if (!shown.actions) return;
    const actions = this.actions(row);
    const labels = actions.map((one) => one.label).join();
    if (labels === shown.labels) return;
    shown.labels = labels;
    shown.actions.replaceChildren(...actions.map((one) => element("button", {
      type: "button", class: one.kind || null, "aria-label": `${one.label} ${one.name}`,
      onclick: () => this.actions(shown.row).find((other) => other.label === one.label)?.run(),
    }, one.label)));
  }
}

function compare(one, other) {
  if (typeof one === "number" && typeof other === "number") return one - other;
  if (one === null || one === undefined || one === "") return other === null || other === undefined || other === "" ? 0 : -1;
  if (other === null || other === undefined || other === "") return 1;
  return String(one).localeCompare(String(other), undefined, { numeric: true });
}
