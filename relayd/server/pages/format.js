// Texts of numbers and times, and the construction of elements. Texts become text nodes: never HTML.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined).map(
    (child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
  return made;
}

export const SVG = "http://www.w3.org/2000/svg";

export function svg(name, attributes = {}) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

export function badge(text, kind = "neutral", title = "") {
  return element("span", { class: `badge ${kind}`, title: title || null }, text);
}

// A number in at most four characters and a unit.
export function short(value) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toFixed(1)} G`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  if (size >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return size >= 1 ? value.toFixed(1) : value.toFixed(size >= 0.1 ? 2 : 3);
}

export function bytes(value) {
  if (!value) return value === 0 ? "0" : "";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1000 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${at && value < 10 ? value.toFixed(1) : value.toFixed(0)} ${units[at]}`;
}

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "";
  seconds = Math.max(0, seconds);
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

export function milliseconds(value) {
  if (value === null || value === undefined) return "";
  return value < 10000 ? `${value} ms` : `${(value / 1000).toFixed(0)} s`;
}

export function time(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}

export function date(seconds) {
  const made = new Date(seconds * 1000);
  const two = (value) => String(value).padStart(2, "0");
  return `${made.getFullYear()}-${two(made.getMonth() + 1)}-${two(made.getDate())} ${time(seconds)}`;
}

export function money(nano, currency) {
  const value = nano / 1e9;
  const digits = value >= 100 ? 0 : value >= 0.1 || value === 0 ? 2 : 4;
  return `${value.toFixed(digits)}${currency ? ` ${currency}` : ""}`;
}

export const now = () => Date.now() / 1000;
