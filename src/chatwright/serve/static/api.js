// Talks with the server that this page came from, and with nobody else. Knows nothing of the page's elements.

/** A refusal or a break, with words for a person and a code for the page. */
export class Failure extends Error {
  constructor(message, { code = null, retryAfter = null } = {}) {
    super(message);
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server cannot be reached.", { code: "unreachable" });
  }
  if (response.ok) return response;
  let told = {};
  try {
    told = (await response.json()).error ?? {};
  } catch {
    // Not our server's words, such as a proxy's page: the status must do.
  }
  const retryAfter = response.headers.get("Retry-After");
  throw new Failure(told.message ? sentence(told.message) : `The server refused with status ${response.status}.`, {
    code: told.code, retryAfter,
  });
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

async function send(method, path, body, signal) {
  const options = { method, signal };
  if (body !== undefined) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  return request(path, options);
}

const read = async (response) => (await response).json();
const at = (id) => `v1/conversations/${encodeURIComponent(id)}`;

export const pageSettings = () => read(request("v1/page-settings"));
export const sendFeedback = (body) => read(send("POST", "v1/feedback", body));
export const me = () => read(request("v1/me"));
export const setConsent = (consent) => read(send("PUT", "v1/me", { consent }));
export const forgetMe = () => read(send("DELETE", "v1/me"));
export const findConversations = (query, before = null) => {
  const wanted = new URLSearchParams({ q: query, ...(before === null ? {} : { before }) });
  return read(request(`v1/conversations?${wanted}`));
};
export const createConversation = (body) => read(send("POST", "v1/conversations", body));
export const getConversation = (id) => read(request(at(id)));
export const changeConversation = (id, body) => read(send("PATCH", at(id), body));
export const deleteConversation = (id) => read(send("DELETE", at(id)));
export const addTurn = (id, turn) => read(send("POST", `${at(id)}/turns`, turn));
export const getProbabilities = (id, turn) => read(request(`${at(id)}/turns/${encodeURIComponent(turn)}/probabilities`));
export const exportAddress = (id, format) => `${at(id)}/export?format=${format}`;

const TURN_MS = 8; // after so long without a pause others have their turn: a fast stream must not hold up the page
const BROKEN = "The connection broke before the answer was complete.";

/** Gives the events of an answer as they come; ends after the server said that it is complete, else fails. */
export async function* streamAnswer(id, body, signal) {
  const response = await send("POST", `${at(id)}/answers`, body, signal);
  let began = performance.now();
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Failure(sentence(event.error.message), { code: event.error.code });
      yield event;
      if (performance.now() - began > TURN_MS) {
        await pause();
        began = performance.now();
      }
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Failure) throw error;
    throw new Failure(BROKEN, { code: "broken" });
  }
  throw new Failure(BROKEN, { code: "broken" });
}

/** Resolves in a task of its own. A timer would too, but hidden pages have one a second only. */
function pause() {
  const { port1, port2 } = new MessageChannel();
  return new Promise((resolve) => {
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

async function* events(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + decoder.decode(value, { stream: true })).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      if (block.startsWith("data: ")) yield block.slice("data: ".length);
    }
  }
}
