// The chat page: what happens when a person writes, stops, begins anew or comes back.

import { Failure, pageSettings, streamAnswer } from "./api.js";
import { isConversationKey, loadDraft, loadTurns, saveDraft, saveTurns } from "./memory.js";
import { TurnView } from "./turns.js";

const $ = (id) => document.getElementById(id);
const NEAR_END = 80; // pixels from the end within which the page follows the text
const RESERVED_SHARE = 0.25; // of the context, kept free for the answer

const state = { settings: null, turns: [], views: [], running: null, charactersPerToken: null };

function announce(text) {
  $("status").textContent = text;
}

function keep() {
  if (!saveTurns(state.turns)) announce("This browser does not keep the conversation.");
}

// What stands on the page

function show(turn) {
  const rates = state.settings?.keeps_feedback ?? false;
  const view = new TurnView($("turns"), turn, { announce, changed: keep, rates });
  view.writing(false);
  state.views.push(view);
  return view;
}

function add(turn) {
  state.turns.push(turn);
  return show(turn);
}

function showAll() {
  $("turns").replaceChildren();
  state.views = [];
  state.turns.forEach(show);
  $("welcome").hidden = state.turns.length > 0 || !state.settings;
  tellTrouble(null);
  if (state.turns.at(-1)?.role === "user") tellTrouble("This message has no answer yet.", { again: answer });
  scrollToEnd();
}

function tellTrouble(message, { again = null, label = "Try again" } = {}) {
  $("trouble").replaceChildren();
  if (message === null) return;
  const text = document.createElement("p");
  text.textContent = message;
  $("trouble").append(text);
  if (!again) return;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "plain";
  button.textContent = label;
  button.addEventListener("click", () => {
    $("question").focus();
    again();
  });
  $("trouble").append(button);
  scrollToEnd();
}

function isNearEnd() {
  return $("main").scrollHeight - $("main").scrollTop - $("main").clientHeight < NEAR_END;
}

function scrollToEnd() {
  $("main").scrollTop = $("main").scrollHeight;
}

function fitQuestion() {
  $("question").rows = Math.min(8, Math.max(1, $("question").value.split("\n").length));
}

function setRunning(controller) {
  const hadFocus = document.activeElement === $("stop") || document.activeElement === $("send");
  state.running = controller;
  $("send").hidden = controller !== null;
  $("stop").hidden = controller === null;
  $("new").disabled = controller !== null;
  if (hadFocus) $("question").focus();
}

// Asking and answering

function ask(text) {
  if (state.running || !state.settings || !text.trim()) return false;
  if (state.turns.at(-1)?.role === "user") dropLast(); // never answered, and now said in other words
  $("welcome").hidden = true;
  add({ role: "user", text: text.trim() });
  keep();
  answer();
  return true;
}

function dropLast() {
  state.turns.pop();
  state.views.pop().element.remove();
}

/** The turns that should fit the model's context, judged by what its last answer told of its tokens. */
function firstThatFits() {
  const room = state.settings.context_length * (1 - RESERVED_SHARE) * (state.charactersPerToken ?? Infinity);
  let first = 0;
  let size = state.turns.reduce((sum, turn) => sum + turn.text.length, 0);
  while (size > room && first + 2 < state.turns.length) {
    size -= state.turns[first].text.length + state.turns[first + 1].text.length;
    first += 2;
  }
  return first;
}

async function answer() {
  tellTrouble(null);
  const controller = new AbortController();
  setRunning(controller);
  const first = firstThatFits();
  const asked = [...state.turns];
  const view = add({ role: "assistant", text: "" });
  view.writing(true);
  scrollToEnd();
  announce("The model is answering.");
  try {
    await write(view, asked, first, controller.signal);
    announce(`Answer: ${view.turn.text}`);
  } catch (error) {
    afterBreak(view, error);
  } finally {
    const follows = isNearEnd() || $("trouble").hasChildNodes();
    setRunning(null);
    view.writing(false);
    keep();
    if (follows) scrollToEnd();
    showLatestButton();
  }
}

/** Writes the answer, leaving out the oldest turns where the server says that they do not fit. */
async function write(view, asked, first, signal) {
  for (;;) {
    const messages = asked.slice(first).map((turn) => ({ role: turn.role, content: turn.text }));
    if (first > 0) view.note("The beginning of this conversation no longer fits, so the model did not read it.");
    try {
      await writeOnce(view, messages, signal);
      return;
    } catch (error) {
      if (error.code !== "context_length_exceeded" || first + 2 >= asked.length) throw error;
      first += 2;
    }
  }
}

async function writeOnce(view, messages, signal) {
  const painter = new Painter(view);
  try {
    for await (const event of streamAnswer(state.settings.model, messages, signal)) {
      view.turn.id = event.id;
      const choice = event.choices[0];
      if (choice?.delta.content) painter.add(choice.delta.content);
      if (choice?.finish_reason === "length") view.note("Cut here: the answer reached its longest length.");
      if (event.usage) learnTokens(messages, event.usage);
    }
  } finally {
    painter.flush();
  }
}

function learnTokens(messages, usage) {
  const characters = messages.reduce((sum, message) => sum + message.content.length, 0);
  if (usage.prompt_tokens > 0) state.charactersPerToken = characters / usage.prompt_tokens;
}

/** Brings text to the page once a frame, however fast it comes. */
class Painter {
  constructor(view) {
    this.view = view;
    this.waiting = "";
    this.frame = null;
  }

  add(text) {
    this.view.turn.text += text;
    this.waiting += text;
    this.frame ??= requestAnimationFrame(() => this.flush());
  }

  flush() {
    if (this.frame !== null) cancelAnimationFrame(this.frame);
    this.frame = null;
    if (!this.waiting) return;
    const follows = isNearEnd();
    this.view.append(this.waiting);
    this.waiting = "";
    if (follows) scrollToEnd();
    showLatestButton();
  }
}

function afterBreak(view, error) {
  if (error.name === "AbortError") {
    announce("Stopped.");
    if (view.turn.text) view.note("Stopped.");
    else afterEmpty();
    return;
  }
  if (!(error instanceof Failure)) console.error(error);
  const retry = () => {
    if (state.running) return;
    dropLastAnswer(view);
    answer();
  };
  const isTooLong = error.code === "context_length_exceeded";
  const words = isTooLong ? "This message is too long for the model to read. Write a shorter one." : error.message;
  view.turn.id = undefined; // the server may not have kept it, so it cannot be rated
  if (!view.turn.text) dropLastAnswer(view);
  else view.note("Incomplete.");
  tellTrouble(words, { again: isTooLong ? null : retry });
}

function dropLastAnswer(view) {
  if (state.turns.at(-1) === view.turn) dropLast();
}

/** Stopped before a word came: the question goes back to the composer. */
function afterEmpty() {
  dropLast();
  const question = state.turns.at(-1).text;
  dropLast();
  if (!$("question").value) $("question").value = question;
  saveDraft($("question").value);
  fitQuestion();
  $("welcome").hidden = state.turns.length > 0;
}

// What a person does

function send() {
  if (!ask($("question").value)) return;
  $("question").value = "";
  saveDraft("");
  fitQuestion();
}

function stop() {
  state.running?.abort();
}

function begin() {
  if (state.running) return;
  state.turns = [];
  keep();
  showAll();
  announce("A new conversation.");
  $("question").focus();
}

function showLatestButton() {
  $("latest").hidden = isNearEnd();
}

function connect() {
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("question").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  $("question").addEventListener("input", () => {
    saveDraft($("question").value);
    fitQuestion();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stop();
  });
  $("stop").addEventListener("click", stop);
  $("new").addEventListener("click", begin);
  $("main").addEventListener("scroll", showLatestButton, { passive: true });
  $("latest").addEventListener("click", () => {
    scrollToEnd();
    $("question").focus();
  });
  addEventListener("storage", (event) => {
    if (state.running || !isConversationKey(event.key)) return; // another tab went on with the conversation
    state.turns = loadTurns();
    showAll();
  });
}

function showSettings(settings) {
  state.settings = settings;
  document.title = settings.title;
  $("title").textContent = settings.title;
  $("model").textContent = settings.model;
  $("greeting").textContent = settings.greeting;
  $("starters").replaceChildren(...settings.starters.map((text) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "starter";
    button.textContent = text;
    button.addEventListener("click", () => {
      $("question").focus();
      ask(text);
    });
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}

async function open() {
  tellTrouble(null);
  try {
    showSettings(await pageSettings());
    showAll();
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    showAll();
    tellTrouble(error.message, { again: open });
  }
}

connect();
state.turns = loadTurns();
$("question").value = loadDraft();
fitQuestion();
open();
