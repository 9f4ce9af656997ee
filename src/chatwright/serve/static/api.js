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

function post(path, body, signal) {
  return request(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
  });
}

export async function pageSettings() {
  return (await request("v1/page-settings")).json();
}

export async function sendRating(rating) {
  return (await post("v1/feedback", rating)).json();
}

/** Gives the answer's events as they come; ends after the server said that it is complete, else fails. */
export async function* streamAnswer(model, messages, signal) {
  const body = { model, messages, stream: true, stream_options: { include_usage: true } };
  const response = await post("v1/chat/completions", body, signal);
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Failure(sentence(event.error.message), { code: event.error.code });
      yield event;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Failure) throw error;
    throw new Failure("The connection broke before the answer was complete.", { code: "broken" });
  }
  throw new Failure("The connection broke before the answer was complete.", { code: "broken" });
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
