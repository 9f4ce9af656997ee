// Talks with the server that this page came from. A judgement keeps its key until the server has said that it is
// stored: sent again after a break it is stored once.

export class Refused extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  const response = await fetch(path, { cache: "no-store", ...options }).catch(() => null);
  if (response === null) throw new Refused("The server cannot be reached.", 0, "unreachable");
  const told = await response.json().catch(() => ({}));
  if (!response.ok) {
    const error = told.error ?? {};
    throw new Refused(error.message ?? `The server refused with status ${response.status}.`, response.status, error.code);
  }
  return told;
}

/** Whether it makes sense to send the same again later. */
export function mayPass(error) {
  return error.status === 0 || error.status === 429 || error.status >= 500;
}
