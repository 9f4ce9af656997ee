// What this browser alone remembers: an unsent message and how the page is used. Conversations are the server's.

const DRAFT = "chatwright.draft.2";
const COMPARE = "chatwright.compare.2";

function load(key) {
  try {
    return localStorage.getItem(key) ?? "";
  } catch {
    return "";
  }
}

function save(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // A browser that keeps nothing: the text still stands in the page.
  }
}

export const loadDraft = () => load(DRAFT);
export const saveDraft = (text) => save(DRAFT, text);
export const loadCompares = () => load(COMPARE) === "yes";
export const saveCompares = (does) => save(COMPARE, does ? "yes" : "no");

/** A name for something new: 32 hexadecimal digits. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
