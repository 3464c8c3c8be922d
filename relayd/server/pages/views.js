// The pages: each has a `node`, and `render(model)`, which shows the newest state.

import { Chart } from "./chart.js";
import { badge, bytes, date, element, milliseconds, money, now, short, span, time } from "./format.js";
import { Table } from "./table.js";

const KINDS = {
  enabled: "good", draining: "warn", disabled: "neutral", leaving: "neutral",
  closed: "good", half_open: "warn", open: "bad", healthy: "good", unhealthy: "bad",
  transfer: "good", tunnel: "good", queue: "warn", attempt: "neutral",
};
const part = (text) => encodeURIComponent(text);
const number = (name, title, get, text = short) =>
  ({ name, title, kind: "number", sort: get, text: (row) => (get(row) === null ? "" : text(get(row))) });
const plain = (name, title = name[0].toUpperCase() + name.slice(1), kind = "text") =>
  ({ name, title, kind, text: (row) => row[name] });
// A state: quiet if it is the usual one, else a badge.
const state = (name, title, text = (row) => row[name]) => ({ name, title, text, node: (row) => {
  const kind = KINDS[text(row)] || "neutral";
  return text(row) === "" ? "" : kind === "good" ? element("span", { class: "dim" }, text(row)) : badge(text(row), kind);
} });
// Two percentiles of a time, sorted by the second.
const times = (name, title, half, most) => ({ name, title, kind: "number", sort: (row) => row[most],
  text: (row) => (row[half] === null ? "" : `${milliseconds(row[half])} / ${milliseconds(row[most])}`) });

function sum(values, count) {
  return values.slice(-count).reduce((all, one) => all + one, 0);
}

// What an operator should look at, worst first: [kind, text].
export function attention(model) {
  const found = [];
  const refused = model.process("refused");
  if (refused) found.push(["bad", `The last reload was refused at ${time(refused[0])}: ${refused[1].join("; ")}`]);
  if (model.process("overload")) found.push(["bad", `Overloaded: ${model.process("overload")}`]);
  for (const one of model.rows("endpoints")) {
    const name = `${one.upstream} ${one.endpoint}`;
    if (one.breaker === "open") found.push(["bad", `${name}: the breaker is open${one.forced ? " (by an operator)" : ""}. ${one.last_fault || ""}`]);
    else if (one.health === "unhealthy") found.push(["bad", `${name} is unhealthy. ${one.health_why || ""}`]);
    else if (one.state === "draining" || one.state === "disabled") found.push(["warn", `${name} is ${one.state}.`]);
  }
  for (const one of model.rows("certificates")) {
    if (one.warning) found.push(["bad", one.warning]);
    else if (one.expires_at - now() < 14 * 86400) found.push(["warn", `The certificate of ${one.name} ends in ${span(one.expires_at - now())}.`]);
  }
  for (const one of model.rows("gates")) if (one.depth) found.push(["warn", `${one.key}: ${one.depth} requests wait.`]);
  for (const one of model.rows("limits")) {
    if (one.share >= 0.9) found.push(["warn", `${one.scope} ${one.value}: ${Math.round(one.share * 100)} % of ${one.limit} ${one.measure} per ${one.per} is used.`]);
  }
  for (const one of model.process("warnings") || []) found.push(["warn", one]);
  return found.sort((one, other) => (one[0] === other[0] ? 0 : one[0] === "bad" ? -1 : 1));
}

class Overview {
  constructor() {
    this.tiles = {};
    const titles = { flight: "In flight", requests: "Requests", tokens: "Tokens", cost: "Cost", failures: "Failures", lag: "Loop delay" };
    this.grid = element("div", { class: "tiles" });
    for (const [name, title] of Object.entries(titles)) {
      const tile = { value: element("div", { class: "value" }), note: element("div", { class: "note" }) };
      tile.node = element("div", { class: "tile" }, element("div", { class: "label" }, title), tile.value, tile.note);
      this.grid.append(tile.node);
      this.tiles[name] = tile;
    }
    const rate = (column) => (history) => history.series[column].map((value) => value / history.interval);
    this.charts = [
      new Chart("Requests", [{ name: "all", values: rate("requests") }, { name: "failed", values: rate("failures") }],
        (value) => `${short(value)}/s`),
      new Chart("Tokens", [{ name: "output", values: rate("output") }, { name: "input", values: rate("input") }],
        (value) => `${short(value)}/s`),
      new Chart("Cost", [{ name: "per second", values: rate("cost") }], (value) => `${money(value, this.currency)}/s`),
    ];
    this.list = element("ul", { class: "list" });
    this.none = element("p", { class: "empty" }, "Nothing needs attention.");
    this.more = element("div", { class: "more" });
    this.nodes = [
      this.grid,
      element("section", { class: "panel", "aria-label": "Attention" },
        element("div", { class: "bar" }, element("h2", {}, "Attention")), this.none, this.list, this.more),
      element("div", { class: "charts" }, ...this.charts.map((one) => one.node)),
    ];
  }

  tile(name, value, note, kind = "") {
    const tile = this.tiles[name];
    tile.value.textContent = value;
    tile.note.textContent = note;
    tile.node.className = `tile ${kind}`;
  }

  render(model) {
    const history = model.history();
    const { requests = [], failures = [], input = [], output = [], cost = [] } = history.series;
    this.currency = model.process("currency") || "";
    const waiting = model.rows("gates").reduce((all, one) => all + one.depth, 0);
    this.tile("flight", short(model.process("in_flight") || 0), waiting ? `${waiting} waiting` : "none waiting", waiting ? "warn" : "");
    this.tile("requests", `${short(sum(requests, 6) / 60)}/s`, `${short(sum(requests, 360))} in the last hour`);
    this.tile("tokens", `${short((sum(output, 6) + sum(input, 6)) / 60)}/s`, `${short(sum(output, 6) / 60)}/s of output`);
    this.tile("cost", money(sum(cost, 360), this.currency), "in the last hour");
    const failed = sum(failures, 30);
    this.tile("failures", short(failed), "in the last five minutes", failed ? "bad" : "");
    const lag = model.process("lag_ms") || 0;
    this.tile("lag", `${lag} ms`, `${bytes(model.process("buffer_bytes") || 0)} of bodies held`, lag > 100 ? "warn" : "");
    this.charts.forEach((one) => one.render(history));
    const found = attention(model);
    const texts = JSON.stringify(found);
    if (texts === this.texts) return;
    this.texts = texts;
    this.list.replaceChildren(...found.slice(0, 12).map(([kind, text]) =>
      element("li", {}, badge(kind === "bad" ? "fault" : "note", kind), element("span", {}, text))));
    this.none.hidden = found.length > 0;
    this.more.hidden = found.length <= 12;
    this.more.textContent = `and ${found.length - 12} more`;
  }
}

class Streams {
  constructor(actions) {
    this.table = new Table("Streams", [
      { name: "age", title: "Age", kind: "number", text: (row) => span(now() - row.started), sort: (row) => -row.started },
      state("state", "State"),
      { name: "request", title: "Request", kind: "text", text: (row) => `${row.method} ${row.path}` },
      plain("route"), plain("consumer"), plain("model"),
      { name: "endpoint", title: "Endpoint", kind: "text", text: (row) => (row.upstream ? `${row.upstream} ${row.endpoint}` : "") },
      number("attempts", "Attempts", (row) => row.attempts),
      number("buffered", "Buffered", (row) => row.buffered, bytes),
      number("sent", "Sent", (row) => row.sent, bytes),
      number("tokens", "Tokens", (row) => row.tokens || null, (value) => `~${short(value)}`),
      plain("id", "Id"),
    ], {
      sort: "age", descending: true, empty: "No request is under way.",
      actions: actions.may && ((row) => [{
        label: "Cancel", name: row.id, kind: "danger",
        run: () => actions.ask(`streams/${part(row.key)}/cancel`, "Cancel this request?",
          `${row.method} ${row.path} of ${row.consumer || "no consumer"}, ${span(now() - row.started)} old. Its client gets an incomplete or failed response.`, "Cancel request"),
      }]),
    });
    this.nodes = [this.table.node];
  }

  render(model) {
    this.table.render(model.rows("streams"));
  }
}

function endpointActions(actions, row) {
  const path = `upstreams/${part(row.upstream)}/endpoints/${part(row.endpoint)}`;
  const name = `${row.upstream} ${row.endpoint}`;
  const found = [];
  if (row.state === "leaving") return found;
  if (row.state === "enabled") {
    found.push({ label: "Drain", name, run: () => actions.ask(`${path}/drain`, "Drain this endpoint?",
      `${name} finishes its ${row.in_flight} requests and gets no new ones until it is enabled.`, "Drain") });
  } else {
    found.push({ label: "Enable", name, run: () => actions.run(`${path}/enable`) });
  }
  if (row.state !== "disabled") {
    found.push({ label: "Disable", name, kind: "danger", run: () => actions.ask(`${path}/disable`, "Disable this endpoint?",
      `${name} gets no new requests until it is enabled.`, "Disable") });
  }
  if (row.breaker === "open" || row.breaker === "half_open") {
    found.push({ label: "Reset breaker", name, run: () => actions.run(`${path}/breaker/reset`) });
  }
  return found;
}

function outcomes(row) {
  const fault = row.health_why || row.last_fault;
  const counts = Object.entries(row.outcomes).filter(([name]) => name !== "complete")
    .sort((one, other) => other[1] - one[1]).map(([name, count]) => `${name} ${count}`).join(", ");
  return [counts, fault && `last: ${fault}`].filter(Boolean).join("; ");
}

class Upstreams {
  constructor(actions) {
    this.table = new Table("Endpoints", [
      plain("upstream"), plain("endpoint"), plain("protocol"), state("state", "State"), state("breaker", "Breaker"),
      state("health", "Health", (row) => (row.health === "unknown" ? "" : row.health)),
      number("in_flight", "In flight", (row) => row.in_flight || null),
      number("limit", "Limit", (row) => row.limit || null),
      times("p99", "Total p50 / p99", "p50", "p99"), times("t99", "First token p50 / p99", "t50", "t99"),
      number("picked", "Requests", (row) => row.picked || null),
      { name: "outcomes", title: "Errors", kind: "wide", text: outcomes,
        sort: (row) => Object.entries(row.outcomes).reduce((all, [name, count]) => all + (name === "complete" ? 0 : count), 0) },
    ], { sort: "upstream", empty: "No upstream has an endpoint.", actions: actions.may && ((row) => endpointActions(actions, row)) });
    this.gates = new Table("Permits and queues", [
      { name: "key", title: "Limit", kind: "text", text: (row) => row.key },
      number("in_flight", "In flight", (row) => row.in_flight, (value) => String(value)),
      number("requests", "Permits", (row) => row.requests || null),
      number("depth", "Waiting", (row) => row.depth, (value) => String(value)),
      number("queue", "Queue", (row) => row.queue),
      number("oldest", "Oldest waits", (row) => (row.oldest_since ? now() - row.oldest_since : null), span),
      number("next", "Next waits", (row) => row.next_wait || null, span),
    ], { sort: "key", empty: "No limits of requests are configured." });
    this.nodes = [this.table.node, this.gates.node];
  }

  render(model) {
    this.table.render(model.rows("endpoints"));
    this.gates.render(model.rows("gates"));
  }
}

class Consumers {
  constructor() {
    this.table = new Table("Rates and budgets", [
      plain("scope", "Of"), { name: "value", title: "Each", kind: "text", text: (row) => row.value || "" },
      plain("measure"), plain("per"), plain("model"),
      number("used", "Used", (row) => Number(row.used)), number("reserved", "Reserved", (row) => Number(row.reserved) || null),
      number("limit", "Limit", (row) => Number(row.limit)), number("left", "Left", (row) => Number(row.left)),
      { name: "share", title: "Share", kind: "number", sort: (row) => row.share, text: (row) => `${Math.round(row.share * 100)} %`,
        node: (row) => {
          const fill = element("span", { class: "fill" });
          fill.style.width = `${Math.min(100, Math.round(row.share * 100))}%`;
          return element("span", { class: `share ${row.share >= 1 ? "bad" : row.share >= 0.8 ? "warn" : ""}` },
            element("span", { class: "track" }, fill), `${Math.round(row.share * 100)} %`);
        } },
      number("waiting", "Waiting", (row) => row.waiting || null),
      { name: "shadow", title: "Mode", text: (row) => (row.shadow ? "counts only" : "enforced") },
    ], { sort: "share", descending: true, empty: "No rates or budgets are in use. A counter appears with its first request." });
    this.nodes = [this.table.node];
  }

  render(model) {
    this.table.render(model.rows("limits"));
  }
}

class Failures {
  constructor() {
    this.clients = element("input", { type: "checkbox", id: "with-clients", onchange: () => this.render(this.model) });
    this.table = new Table("Failures", [
      { name: "at", title: "Time", kind: "number", text: (row) => time(row.at), sort: (row) => row.at },
      number("status", "Status", (row) => row.status || null, String),
      { name: "code", title: "Code", text: (row) => row.code || "upstream error",
        node: (row) => badge(row.code || "upstream error", row.outcome.startsWith("client") ? "neutral" : "bad") },
      plain("detail", "Detail", "wide"), { name: "request", title: "Request", kind: "text", text: (row) => `${row.method} ${row.path}` },
      plain("route"), plain("consumer"), plain("model"),
      { name: "endpoint", title: "Endpoint", kind: "text", text: (row) => (row.upstream ? `${row.upstream} ${row.endpoint}` : "") },
      number("total", "Took", (row) => row.total, span),
      plain("outcome"), plain("id", "Id"),
    ], { sort: "at", descending: true, empty: "Nothing has failed since relayd started.",
      tools: [element("label", { class: "dim" }, this.clients, " with those of clients")] });
    this.nodes = [this.table.node];
  }

  render(model) {
    this.model = model;
    const rows = model.rows("failures");
    this.table.render(this.clients.checked ? rows : rows.filter((row) => !row.outcome.startsWith("client")));
  }
}

// Shows what the rollback to a generation would change, and asks.
async function rollBack(actions, number) {
  const compared = await actions.request(`generations/${part(number)}/compare`);
  if (!compared) return;
  actions.ask(`generations/${part(number)}/restore`, `Roll back to generation ${number}?`,
    compared.changes.length ? "This changes, without touching the files, until the next reload or start:" : "Nothing would change.",
    "Roll back", {
      detail: compared.changes.join("\n"),
      done: (data) => (data.changes.length ? `Generation ${data.generation} is in force, with the configuration of ${number}.` : "Nothing has changed."),
    });
}

class Configuration {
  constructor(actions) {
    this.actions = actions;
    this.facts = element("dl", { class: "facts" });
    this.generations = element("div");
    this.certificates = new Table("Certificates", [
      plain("name", "Name"), plain("of", "Of"),
      number("left", "Left", (row) => row.expires_at - now(), (value) => (value > 0 ? span(value) : "none")),
      { name: "expires_at", title: "Ends", text: (row) => (row.expires_at > 0 ? date(row.expires_at) : "") },
      { name: "warning", title: "Warning", kind: "wide", text: (row) => row.warning || "" },
      { name: "file", title: "File", kind: "text", text: (row) => row.file },
    ], { sort: "left", empty: "No certificates are in use." });
    this.nodes = [
      element("section", { class: "panel", "aria-label": "Process" }, element("div", { class: "bar" }, element("h2", {}, "Process")), this.facts),
      this.certificates.node,
      element("section", { class: "panel", "aria-label": "Generations" },
        element("div", { class: "bar" }, element("h2", {}, "Generations"),
          element("span", { class: "dim" }, "A rollback does not change the files; relayd rollback does.")),
        this.generations),
    ];
  }

  render(model) {
    this.certificates.render(model.rows("certificates"));
    const listeners = (model.process("listeners") || []).map(([name, address, tls]) => `${name} ${address}${tls ? " TLS" : ""}`);
    const facts = [
      ["Version", `${model.process("version")}, process ${model.process("pid")}`],
      ["State", `${model.process("phase")}, up ${span(now() - model.process("started_at"))}`],
      ["File", model.process("file")], ["Generation", `${model.process("generation")}, loaded ${date(model.process("loaded_at"))}`],
      ["Listeners", listeners.join(", ")], ["Signed in", `${model.process("sessions")} browsers`],
      ["Warnings", (model.process("warnings") || []).join("; ") || "none"],
    ];
    this.facts.replaceChildren(...facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
    const rows = model.rows("generations").sort((one, other) => Number(other.key) - Number(one.key));
    const current = model.process("generation");
    const texts = JSON.stringify([rows, current, model.process("rollback")]);
    if (texts === this.texts) return;
    this.texts = texts;
    const mayRollBack = this.actions.may && model.process("rollback");
    this.generations.replaceChildren(...rows.map((one, at) => element("div", { class: "generation" },
      this.generation(one, at === 0), mayRollBack && Number(one.key) !== current ? element("button", {
        type: "button", "aria-label": `Roll back to generation ${one.key}`, onclick: () => rollBack(this.actions, one.key),
      }, "Roll back") : null)));
  }

  generation(row, isOpen) {
    const changes = row.changes || [];
    const note = row.changes === null ? "before this process" : changes.length ? `${changes.length} changes` : "the first of this process";
    return element("details", { open: isOpen && changes.length > 0 },
      element("summary", {}, `Generation ${row.key}, since ${date(row.at)}, `, element("span", { class: "dim" }, note)),
      changes.length ? element("pre", { class: "mono" }, changes.join("\n")) : null);
  }
}

export const VIEWS = [
  { name: "overview", title: "Overview", make: () => new Overview() },
  { name: "streams", title: "Streams", make: (actions) => new Streams(actions), count: (model) => model.table("streams").size },
  { name: "upstreams", title: "Upstreams", make: (actions) => new Upstreams(actions), count: (model) => model.table("endpoints").size },
  { name: "consumers", title: "Consumers", make: () => new Consumers() },
  { name: "failures", title: "Failures", make: () => new Failures(),
    count: (model) => model.rows("failures").filter((row) => !row.outcome.startsWith("client")).length },
  { name: "configuration", title: "Configuration", make: (actions) => new Configuration(actions) },
];
