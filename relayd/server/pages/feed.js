// The live state: one event stream for all tabs of a browser, because a browser opens six connections to a host. The tab
// that holds the lock reads the stream and passes the events on; another takes over when it is closed. Without locks
// (plain HTTP to another host) each tab reads a stream of its own.

const RETRY_MS = 10000;

export class Feed {
  // `on.state(data)`, `on.change(data)`, `on.status(word, text)`; `on.current()` returns the data for a new tab.
  constructor(on) {
    this.on = on;
    this.leads = false;
    const name = `relayd ${location.pathname}`;
    this.channel = typeof BroadcastChannel === "function" ? new BroadcastChannel(name) : null;
    if (this.channel) this.channel.onmessage = (event) => this.receive(event.data);
    if (this.channel && navigator.locks) {
      navigator.locks.request(name, () => { this.lead(); return new Promise(() => {}); });
      this.channel.postMessage({ type: "hello" });
    } else {
      this.lead();
    }
  }

  receive(message) {
    if (message.type === "hello") {
      const data = this.leads && this.on.current();
      if (data) this.channel.postMessage({ type: "state", data });
      if (data) this.channel.postMessage({ type: "status", data: this.status });
    } else if (!this.leads) {
      if (message.type === "status") this.on.status(...message.data);
      else this.on[message.type](message.data);
    }
  }

  lead() {
    this.leads = true;
    this.open();
  }

  tell(type, data) {
    if (type === "status") this.status = data;
    if (type === "status") this.on.status(...data);
    else this.on[type](data);
    if (this.channel && navigator.locks) this.channel.postMessage({ type, data });
  }

  open() {
    const source = new EventSource("events");
    for (const type of ["state", "change"]) {
      source.addEventListener(type, (event) => this.tell(type, JSON.parse(event.data)));
    }
    source.onopen = () => this.tell("status", ["live", ""]);
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) this.refused();
      else this.tell("status", ["connecting", "The connection was lost; trying again."]);
    };
  }

  // The server has refused the stream, and a browser does not tell why.
  async refused() {
    let text = "relayd cannot be reached; next try in 10 seconds.";
    try {
      const response = await fetch("session", { cache: "no-store" });
      if (response.status === 401 || response.status === 403) {
        location.reload();
        return;
      }
      if (response.ok) text = "Too many dashboards are open; next try in 10 seconds.";
    } catch {
      // still unreachable
    }
    this.tell("status", ["offline", text]);
    setTimeout(() => this.open(), RETRY_MS);
  }
}
