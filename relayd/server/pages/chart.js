// A chart of the last hour: one or more series of numbers, as lines with a light area. Its numbers are in its caption
// too, and follow the pointer.

import { element, svg, time } from "./format.js";

const WIDTH = 1000;
const HEIGHT = 100;

export class Chart {
  // `series`: [{name, values(history) -> numbers}]; `text(number)` writes one of them.
  constructor(title, series, text) {
    this.title = title;
    this.series = series;
    this.text = text;
    this.at = null;
    this.lines = series.map((_, at) => svg("path", { class: `line series-${at}` }));
    this.areas = series.map((_, at) => svg("path", { class: `area series-${at}` }));
    this.cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
    this.drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    for (const y of [0, HEIGHT / 2, HEIGHT]) {
      this.drawing.append(svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y }));
    }
    this.drawing.append(...this.areas, ...this.lines, this.cursor);
    this.drawing.addEventListener("pointermove", (event) => this.point(event));
    this.drawing.addEventListener("pointerleave", () => { this.at = null; this.write(); });
    this.values = series.map(() => element("span", {}));
    this.top = element("span", { class: "dim" });
    this.left = element("span", {}, "60 min ago");
    this.node = element("section", { class: "panel chart", "aria-label": title },
      element("div", { class: "title" }, element("h2", {}, title), this.top),
      element("div", { class: "legend" }, ...series.map((one, at) => element("span", {},
        element("i", { class: `series-${at}` }), `${one.name} `, this.values[at]))),
      this.drawing,
      element("div", { class: "axis" }, this.left, element("span", {}, "30 min"), element("span", {}, "now")));
  }

  render(history) {
    this.times = history.times;
    this.numbers = this.series.map((one) => one.values(history));
    const most = Math.max(0, ...this.numbers.flat());
    const scale = most || 1;
    const count = Math.max(1, history.times.length - 1);
    this.numbers.forEach((numbers, at) => {
      const points = numbers.map((value, x) =>
        `${(x / count * WIDTH).toFixed(1)},${(HEIGHT - value / scale * HEIGHT).toFixed(1)}`);
      const line = points.length ? `M${points.join("L")}` : "";
      this.lines[at].setAttribute("d", line);
      this.areas[at].setAttribute("d", line && `${line}L${WIDTH},${HEIGHT}L0,${HEIGHT}Z`);
    });
    this.top.textContent = most ? `most ${this.text(most)}` : "";
    this.write();
  }

  point(event) {
    if (!this.times) return;
    const box = this.drawing.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / (box.width || 1)));
    this.at = Math.round(share * (this.times.length - 1));
    this.write();
  }

  write() {
    if (!this.times) return;
    const at = this.at === null ? this.times.length - 1 : this.at;
    const texts = this.numbers.map((numbers) => this.text(numbers[at] || 0));
    this.values.forEach((node, index) => { node.textContent = texts[index]; });
    this.left.textContent = this.at === null ? "60 min ago" : `at ${time(this.times[at])}`;
    this.cursor.setAttribute("visibility", this.at === null ? "hidden" : "visible");
    const x = at / Math.max(1, this.times.length - 1) * WIDTH;
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    this.drawing.setAttribute("aria-label",
      `${this.title}, last hour; now ${this.series.map((one, index) => `${one.name} ${texts[index]}`).join(", ")}`);
  }
}
