// The chat page: what happens when a person writes, stops, begins anew, goes back or comes again.

import * as api from "./api.js";
import { Conversation } from "./conversation.js";
import { loadCompares, loadDraft, saveCompares, saveDraft } from "./memory.js";
import { MyData } from "./mydata.js";
import { Preferences } from "./preferences.js";
import { Sidebar } from "./sidebar.js";

const $ = (id) => document.getElementById(id);
const ID = /^#[0-9a-f]{32}$/;

let server = null; // what the server told of itself

const announce = (text) => {
  $("status").textContent = text;
};

function tellTrouble(message, { again = null, label = "Try again" } = {}) {
  $("trouble").replaceChildren();
  if (message === null) return;
  const text = document.createElement("p");
  text.textContent = message;
  $("trouble").append(text);
  if (again) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "plain";
    button.textContent = label;
    button.addEventListener("click", () => {
      $("question").focus();
      again();
    });
    $("trouble").append(button);
  }
  $("main").scrollTop = $("main").scrollHeight;
}

const conversation = new Conversation({ announce, tellTrouble, changed: showConversation, running: showRunning });
const sidebar = new Sidebar({ open: openConversation, failed: (failure) => tellTrouble(failure.message), announce });
const preferences = new Preferences({ save: (wanted) => conversation.configure(wanted) });
const myData = new MyData({ forgotten: () => location.replace(location.pathname) });

// What the page shows of a conversation

function showConversation({ isTouched = false } = {}) {
  const kept = conversation.kept;
  $("welcome").hidden = conversation.hasTurns || !server;
  $("about").textContent = kept?.title || "New conversation";
  $("model").textContent = conversation.compares ? "two models, blind" : kept?.settings.model ?? server?.model ?? "";
  $("more-menu").hidden = !kept;
  document.title = kept?.title ? `${kept.title} – ${server?.title ?? ""}` : server?.title ?? "chatwright";
  for (const format of ["markdown", "json"]) if (kept) $(`export-${format}`).href = api.exportAddress(kept.id, format);
  const wanted = kept ? `#${kept.id}` : "";
  if (location.hash !== wanted) history.pushState(null, "", wanted || location.pathname);
  sidebar.mark(kept?.id ?? null);
  if (isTouched) sidebar.refresh();
}

function showRunning(isRunning) {
  const hadFocus = [$("stop"), $("send"), document.body].includes(document.activeElement);
  $("send").hidden = isRunning;
  $("stop").hidden = !isRunning;
  if (hadFocus) $("question").focus();
}

async function openConversation(id) {
  conversation.stop();
  tellTrouble(null);
  try {
    await conversation.open(id);
  } catch (failure) {
    conversation.begin();
    tellTrouble(failure.code === "conversation_not_found" ? "This conversation is not kept here." : failure.message);
  }
  $("question").focus();
}

function begin() {
  conversation.stop();
  tellTrouble(null);
  conversation.begin();
  sidebar.toggle(false);
  announce("A new conversation.");
  $("question").focus();
}

// What a person does

function fitQuestion() {
  $("question").rows = Math.min(8, Math.max(1, $("question").value.split("\n").length));
}

async function send() {
  const text = $("question").value.trim();
  if (!text || !server || conversation.isRunning) return;
  $("welcome").hidden = true;
  $("question").value = "";
  fitQuestion();
  const isKept = await conversation.ask(text);
  if (isKept) saveDraft($("question").value);
  else if (!$("question").value) $("question").value = text;
  fitQuestion();
}

function askForName() {
  $("name").value = conversation.kept.title;
  $("rename").showModal();
  $("name").select();
}

function connectDialogs() {
  $("rename-form").addEventListener("submit", async (event) => {
    if (event.submitter?.value === "cancel" || !$("name").value.trim()) return;
    await attempt(() => conversation.change({ title: $("name").value.trim() }));
    sidebar.refresh();
  });
  $("remove-form").addEventListener("submit", async (event) => {
    if (event.submitter?.value !== "delete") return;
    conversation.stop();
    const isGone = await attempt(() => api.deleteConversation(conversation.kept.id));
    if (!isGone) return;
    begin();
    sidebar.refresh();
    announce("The conversation is deleted.");
  });
  const choose = (id, act) => $(id).addEventListener("click", () => {
    $("actions-menu").hidePopover();
    act();
  });
  choose("choose-rename", askForName);
  choose("choose-delete", () => $("remove").showModal());
  choose("export-markdown", () => announce("Exported."));
  choose("export-json", () => announce("Exported."));
  $("open-settings").addEventListener("click", () => {
    if (server) preferences.show(conversation.configuration, server.model);
    myData.show();
  });
}

async function attempt(act) {
  try {
    await act();
    return true;
  } catch (failure) {
    tellTrouble(failure.message);
    return false;
  }
}

function connectComposer() {
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
    if (event.key === "ArrowUp" && !$("question").value && conversation.editLast()) event.preventDefault();
  });
  $("question").addEventListener("input", () => {
    saveDraft($("question").value);
    fitQuestion();
  });
  $("stop").addEventListener("click", () => conversation.stop());
  $("compare").addEventListener("click", () => setCompares(!conversation.compares));
}

function setCompares(does) {
  conversation.compares = does && (server?.models.length ?? 0) > 1;
  $("compare").setAttribute("aria-pressed", String(conversation.compares));
  saveCompares(conversation.compares);
  showConversation();
}

function connectPage() {
  $("new").addEventListener("click", begin);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) conversation.stop();
    if (event.altKey && event.key.toLowerCase() === "n") begin();
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      sidebar.toggle(true);
      $("find").focus();
    }
  });
  addEventListener("hashchange", () => goToHash());
  addEventListener("popstate", () => goToHash());
  document.addEventListener("visibilitychange", () => {
    if (document.hidden || !server || conversation.isRunning) return;
    sidebar.refresh(); // another tab may have gone on
    conversation.refresh().catch((failure) => tellTrouble(failure.message));
  });
}

function goToHash() {
  const id = ID.test(location.hash) ? location.hash.slice(1) : null;
  if (id === (conversation.kept?.id ?? null)) conversation.stay();
  else if (id) openConversation(id);
  else begin();
}

// The beginning

function showServer(told) {
  server = told;
  conversation.server = told;
  $("title").textContent = told.title;
  $("greeting").textContent = told.greeting;
  $("compare").hidden = told.models.length < 2;
  preferences.offer(told);
  $("starters").replaceChildren(...told.starters.map((text) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "starter";
    button.textContent = text;
    button.addEventListener("click", () => {
      $("question").value = text;
      $("question").focus();
      send();
    });
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}

async function open() {
  tellTrouble(null);
  try {
    showServer(await api.pageSettings());
  } catch (error) {
    if (!(error instanceof api.Failure)) throw error;
    tellTrouble(error.message, { again: open });
    return;
  }
  if (!server.keeps_feedback) {
    tellTrouble("This server keeps no conversations, and this page needs them. Start it with a store.");
    return;
  }
  const wanted = ID.test(location.hash) ? location.hash.slice(1) : null;
  conversation.compares = loadCompares() && server.models.length > 1;
  $("compare").setAttribute("aria-pressed", String(conversation.compares));
  sidebar.refresh();
  if (wanted) await openConversation(wanted);
  else showConversation();
}

connectComposer();
connectDialogs();
connectPage();
$("question").value = loadDraft();
fitQuestion();
open();
