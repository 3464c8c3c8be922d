// The dashboard: navigation, actions, and the drawing of the page that is shown.

import { Feed } from "./feed.js";
import { element, time } from "./format.js";
import { Model } from "./model.js";
import { VIEWS } from "./views.js";

const TOAST_MS = 6000;
const CONNECTION = { live: "good", connecting: "warn", offline: "bad" };
const byId = (id) => document.getElementById(id);

const model = new Model();
const session = await (await fetch("session", { cache: "no-store" })).json();

function toast(text) {
  const node = element("div", { class: "toast" }, text);
  byId("toasts").append(node);
  while (byId("toasts").children.length > 4) byId("toasts").firstChild.remove();
  setTimeout(() => node.remove(), TOAST_MS);
}

async function post(path) {
  const headers = session.token ? { "X-Relayd-Token": session.token } : {};
  return fetch(path, { method: "POST", headers, cache: "no-store" });
}

const actions = {
  may: session.may_write,
  async run(path, done = () => "Done.") {
    const data = await this.request(path);
    if (data) toast(done(data));
  },
  // The answer to an action; null if it has failed, which is shown.
  async request(path) {
    try {
      const response = await post(`actions/${path}`);
      if (response.status === 401) location.reload();
      const data = await response.json();
      if (response.ok) return data;
      toast(data.error?.message || data.findings?.join("; ") || data.title || `Failed with status ${response.status}.`);
    } catch {
      toast("relayd cannot be reached.");
    }
    return null;
  },
  ask(path, title, text, yes, { detail = "", done = undefined } = {}) {
    byId("confirm-title").textContent = title;
    byId("confirm-text").textContent = text;
    byId("confirm-detail").textContent = detail;
    byId("confirm-detail").hidden = !detail;
    byId("confirm-yes").textContent = yes;
    const dialog = byId("confirm");
    dialog.returnValue = "";
    dialog.onclose = () => { if (dialog.returnValue === "yes") this.run(path, done); };
    dialog.showModal();
  },
};

const views = {};
let shown = null;
const links = VIEWS.map((view) => {
  const count = element("span", { class: "count" });
  const link = element("a", { href: `#${view.name}` }, view.title, count);
  byId("nav").append(link);
  return { view, link, count };
});

function navigate() {
  const view = VIEWS.find((one) => `#${one.name}` === location.hash) || VIEWS[0];
  for (const one of links) {
    if (one.view === view) one.link.setAttribute("aria-current", "page");
    else one.link.removeAttribute("aria-current");
  }
  shown = views[view.name] || (views[view.name] = view.make(actions));
  document.title = `${view.title} · relayd`;
  byId("content").replaceChildren(element("h1", { class: "skip" }, view.title), ...shown.nodes);
  draw();
}

let isDue = false;
function draw() {
  if (isDue || document.hidden) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    if (!model.ready) return;
    for (const { view, count } of links) if (view.count) count.textContent = view.count(model);
    shown.render(model);
  });
}

function changed() {
  byId("updated").textContent = `as of ${time(Date.now() / 1000)}`;
  draw();
}

byId("version").textContent = session.version;
byId("consumer").textContent = session.consumer;
byId("sign-out").hidden = !session.signed_in;
byId("sign-out").addEventListener("click", async () => {
  await post("sign-out");
  location.reload();
});
window.addEventListener("hashchange", navigate);
document.addEventListener("visibilitychange", draw);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, dialog")) return;
  const view = VIEWS[Number(event.key) - 1];
  if (view) location.hash = view.name;
  const filter = event.key === "/" ? byId("content").querySelector(".filter") : null;
  if (filter) {
    event.preventDefault();
    filter.focus();
  }
});
navigate();
setInterval(draw, 1000); // ages grow although nothing changes

new Feed({
  state(data) { model.setState(data); changed(); },
  change(data) { if (model.ready) { model.change(data); changed(); } },
  status(word, text) {
    const node = byId("connection");
    node.className = `badge ${CONNECTION[word]}`;
    node.textContent = word;
    node.title = text;
    document.body.classList.toggle("stale", word !== "live");
    if (text) toast(text);
  },
  current: () => model.snapshot(),
});
