// Keeps the conversation and an unsent message in this browser, so that a reload loses nothing.

const CONVERSATION = "chatwright.conversation.1";
const DRAFT = "chatwright.draft.1";

const isText = (value) => value === undefined || typeof value === "string";

function isTurn(turn) {
  return turn !== null && typeof turn === "object" && ["user", "assistant"].includes(turn.role)
    && typeof turn.text === "string" && isText(turn.id) && isText(turn.note) && isText(turn.thumb);
}

/** The turns kept here; none where there are none or where they are not sound. */
export function loadTurns() {
  try {
    const turns = JSON.parse(localStorage.getItem(CONVERSATION));
    return Array.isArray(turns) && turns.every(isTurn) ? turns : [];
  } catch {
    return [];
  }
}

/** Whether the turns are kept: a browser may refuse to, or have no room. */
export function saveTurns(turns) {
  return save(CONVERSATION, JSON.stringify(turns));
}

export function loadDraft() {
  try {
    return localStorage.getItem(DRAFT) ?? "";
  } catch {
    return "";
  }
}

export function saveDraft(text) {
  return save(DRAFT, text);
}

export function isConversationKey(key) {
  return key === CONVERSATION;
}

function save(key, value) {
  try {
    localStorage.setItem(key, value);
    return true;
  } catch {
    return false;
  }
}
