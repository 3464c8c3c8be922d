// The state of the page: tables of rows by key, as relayd sends them. A row is an object of its columns, with its `key`.

export class Model {
  constructor() {
    this.tables = {};
    this.columns = {};
    this.ready = false;
  }

  table(name) {
    return this.tables[name] || new Map();
  }

  rows(name) {
    return [...this.table(name).values()];
  }

  process(name) {
    const row = this.table("process").get(name);
    return row ? row.value : undefined;
  }

  setState({ columns, tables }) {
    this.columns = columns;
    this.tables = {};
    for (const [name, rows] of Object.entries(tables)) this.add(name, rows);
    this.ready = true;
  }

  add(name, rows) {
    const table = this.tables[name] || (this.tables[name] = new Map());
    const columns = this.columns[name] || [];
    for (const [key, cells] of Object.entries(rows)) {
      const row = { key };
      cells.forEach((cell, at) => { row[columns[at]] = cell; });
      table.set(key, row);
    }
  }

  change(tables) {
    for (const [name, { rows = {}, set = {}, gone = [] }] of Object.entries(tables)) {
      this.add(name, rows);
      const table = this.table(name);
      const columns = this.columns[name] || [];
      for (const [key, cells] of Object.entries(set)) {
        const row = table.get(key);
        if (row) for (const [at, cell] of Object.entries(cells)) row[columns[at]] = cell;
      }
      for (const key of gone) table.delete(key);
    }
  }

  // The state as relayd sends it, for a tab that opens later.
  snapshot() {
    if (!this.ready) return null;
    const tables = {};
    for (const [name, rows] of Object.entries(this.tables)) {
      const columns = this.columns[name] || [];
      tables[name] = Object.fromEntries([...rows].map(([key, row]) => [key, columns.map((column) => row[column])]));
    }
    return { columns: this.columns, tables };
  }

  // The finished intervals of the last hour, oldest first: arrays of numbers by column, the time of each in seconds.
  history() {
    const interval = this.process("interval_s") || 10;
    const buckets = this.process("buckets") || 360;
    const table = this.table("history");
    const last = Math.floor(Date.now() / 1000 / interval) - 1;
    const known = [...table.keys()].map(Number);
    const newest = Math.min(last, Math.max(last - 1, ...known));
    const times = [];
    const series = {};
    for (const column of this.columns.history || []) series[column] = [];
    for (let number = newest - buckets + 1; number <= newest; number += 1) {
      const row = table.get(String(number));
      times.push(number * interval);
      for (const column of Object.keys(series)) series[column].push(row ? row[column] : 0);
    }
    return { interval, times, series };
  }
}
