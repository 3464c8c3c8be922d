// SDKs for Node against relayd: node sdks.mjs BASE MODEL CASE [TOKENS] prints one JSON object with what was heard.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [base, model, which, most] = process.argv.slice(2);
const near = createRequire(process.env.CLIENTS + "/package.json");
const load = async (name) => import(pathToFileURL(near.resolve(name)).href);
const lookUp = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };
const heard = {};

async function vercel(make, stream) {
  const ai = await load("ai");
  const tools = { look_up: ai.tool({
    description: "Weather.", inputSchema: ai.jsonSchema(lookUp), execute: async ({ city }) => `rain in ${city}`,
  }) };
  const asked = { model: await make(), prompt: "Weather?", tools, stopWhen: ai.stepCountIs(4), maxRetries: 0, maxOutputTokens: 400 };
  if (!stream) {
    const done = await ai.generateText(asked);
    return { text: done.text, steps: done.steps.length, finish: done.finishReason };
  }
  const failures = [];
  const done = ai.streamText({ ...asked, onError: ({ error }) => failures.push(String(error)) });
  let parts = "";
  try {
    for await (const part of done.fullStream) {
      if (part.type === "text-delta") parts += part.text;
      if (part.type === "error") failures.push(String(part.error));
    }
  } catch (error) {
    failures.push(String(error)); // the connection broke
  }
  if (failures.length) return { failures, parts };
  return { text: await done.text, steps: (await done.steps).length, finish: await done.finishReason, parts };
}

async function object(make) {
  const ai = await load("ai");
  const schema = ai.jsonSchema({ type: "object", properties: { name: { type: "string" }, age: { type: "integer" } },
    required: ["name", "age"], additionalProperties: false });
  return (await ai.generateObject({ model: await make(), prompt: "Who?", schema, maxRetries: 0 })).object;
}

const provider = {
  chat: async () => (await load("@ai-sdk/openai")).createOpenAI({ baseURL: base + "/v1", apiKey: "k" }).chat(model),
  responses: async () => (await load("@ai-sdk/openai")).createOpenAI({ baseURL: base + "/v1", apiKey: "k" }).responses(model),
  anthropic: async () => (await load("@ai-sdk/anthropic")).createAnthropic({ baseURL: base + "/v1", apiKey: "k" })(model),
  compatible: async () => (await load("@ai-sdk/openai-compatible")).createOpenAICompatible(
    { name: "relayd", baseURL: base + "/v1", apiKey: "k", supportsStructuredOutputs: true })(model),
};

async function openaiNode(stream) {
  const { default: OpenAI } = await load("openai");
  const client = new OpenAI({ baseURL: base + "/v1", apiKey: "k", maxRetries: 0 });
  const tools = [{ type: "function", function: { name: "look_up", parameters: lookUp } }];
  const messages = [{ role: "user", content: "Weather?" }];
  let last;
  for (let turn = 0; turn < 2; turn += 1) {
    last = stream
      ? await client.chat.completions.stream({ model, messages, tools }).finalMessage()
      : (await client.chat.completions.create({ model, messages, tools })).choices[0].message;
    messages.push(last);
    for (const call of last.tool_calls ?? []) {
      messages.push({ role: "tool", tool_call_id: call.id, content: `rain in ${JSON.parse(call.function.arguments).city}` });
    }
  }
  let input = [{ role: "user", content: "Weather?" }];
  const flat = [{ type: "function", name: "look_up", parameters: lookUp, strict: true }];
  let response;
  for (let turn = 0; turn < 2; turn += 1) {
    response = stream
      ? await client.responses.stream({ model, input, tools: flat }).finalResponse()
      : await client.responses.create({ model, input, tools: flat });
    input = [...input, ...response.output];
    for (const item of response.output.filter((one) => one.type === "function_call")) {
      input.push({ type: "function_call_output", call_id: item.call_id, output: `rain in ${JSON.parse(item.arguments).city}` });
    }
  }
  return { text: last.content, response: response.output_text };
}

// One request with the repetitions of the SDK itself.
async function repeated(protocol) {
  const options = { apiKey: "k", maxRetries: 4 };
  const messages = [{ role: "user", content: "Hi" }];
  let sent;
  if (protocol === "anthropic_messages") {
    const { default: Anthropic } = await load("@anthropic-ai/sdk");
    sent = new Anthropic({ baseURL: base, ...options }).messages.create({ model, messages, max_tokens: Number(most) });
  } else {
    const { default: OpenAI } = await load("openai");
    const client = new OpenAI({ baseURL: base + "/v1", ...options });
    sent = protocol === "openai_chat"
      ? client.chat.completions.create({ model, messages, max_tokens: Number(most) })
      : client.responses.create({ model, input: "Hi", max_output_tokens: Number(most) });
  }
  try {
    const { response } = await sent.withResponse();
    return { status: response.status, headers: Object.fromEntries(response.headers) };
  } catch (error) {
    return { status: error.status, failure: error.constructor.name, headers: Object.fromEntries(error.headers ?? []) };
  }
}

const [name, way] = which.split("-");
try {
  if (name === "openai") Object.assign(heard, await openaiNode(way === "stream"));
  else if (name === "repeated") Object.assign(heard, await repeated(way));
  else if (way === "object") Object.assign(heard, await object(provider[name]));
  else Object.assign(heard, await vercel(provider[name], way === "stream"));
} catch (error) {
  heard.failures = [String(error)];
}
console.log(JSON.stringify(heard));
