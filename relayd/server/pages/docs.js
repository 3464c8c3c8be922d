// Sends the form of an operation, with the key, and shows the response as text: at most 64 KiB, and no stream without end.
const MOST = 65536;
document.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const shown = form.querySelector("output");
  const path = form.dataset.path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(form.elements[name].value));
  const headers = {};
  const key = document.getElementById("key").value;
  if (key) headers.Authorization = `Bearer ${key}`;
  const body = form.elements.body ? form.elements.body.value : undefined;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  shown.textContent = "...";
  try {
    const response = await fetch(path, { method: form.dataset.method, headers, body, cache: "no-store" });
    const head = `${response.status} ${response.statusText}\n`;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (value) text += value;
      shown.textContent = head + text.slice(0, MOST);
      if (done) break;
      if (text.length > MOST) {
        await reader.cancel();
        break;
      }
    }
  } catch (error) {
    shown.textContent = String(error);
  }
});
