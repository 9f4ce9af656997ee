// One turn on the page: its text, its notes, and what a person can do with it.

import { sendFeedback } from "./api.js";
import { Markdown } from "./markdown.js";
import { newId } from "./memory.js";
import { Painter } from "./painter.js";

const NAMES = { user: "You", assistant: "Model" };
const NOTES = {
  length: "Cut here: the answer reached its longest length.",
  cancelled: "Stopped.",
  failed: "Incomplete: the model failed while writing.",
  broken: "Incomplete: the server ended while writing.",
  edited: "As you wrote it.",
};
const REASONS = {
  up: ["Correct", "Clear", "Complete", "Well written"],
  down: ["Wrong", "Misses the question", "Unclear", "Badly written", "Unsafe"],
};

/** What can be done with a turn is told through `acts`: functions that the page gives. */
export class TurnView {
  constructor(turn, acts, { rates = true } = {}) {
    this.turn = turn;
    this.acts = acts;
    this.rates = rates;
    this.element = document.getElementById("turn").content.firstElementChild.cloneNode(true);
    this.element.classList.add(turn.role);
    this.find("h2").textContent = NAMES[turn.role];
    const box = this.find(".text");
    this.markdown = turn.role === "assistant" ? new Markdown(box) : null;
    this.find(turn.role === "assistant" ? ".rewrite" : ".opinion").remove();
    this.painter = new Painter((text) => this.put(text), () => acts.painted());
    if (turn.content) this.painter.begin(turn.content);
    this.connect();
    this.show();
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  remove() {
    this.painter.stop();
    this.element.remove();
  }

  put(text) {
    if (this.markdown) this.markdown.append(text);
    else this.find(".text").append(document.createTextNode(text));
  }

  /** More of the answer. */
  write(text) {
    this.turn.content += text;
    this.painter.add(text);
  }

  note(text) {
    this.find(".note").textContent = text;
    this.find(".note").hidden = !text;
  }

  /** Takes what the server knows of the turn by now. */
  take(turn) {
    this.turn = { ...turn, content: this.turn.content || turn.content };
    this.show();
  }

  show({ isWriting = false } = {}) {
    const { turn } = this;
    const isAnswer = turn.role === "assistant";
    this.element.classList.toggle("writing", isWriting);
    this.find(".actions").hidden = isWriting || (isAnswer && !turn.content);
    const rated = isAnswer && this.rates && Boolean(turn.answer_id) && !["failed", null].includes(turn.finish);
    for (const name of [".up", ".down"]) this.find(name).hidden = !rated;
    for (const name of [".again", ".copy"]) this.find(name).hidden = !isAnswer;
    this.find(".scores").hidden = !rated || !turn.model;
    this.find(".edit").hidden = isAnswer;
    for (const thumb of ["up", "down"]) this.find(`.${thumb}`).setAttribute("aria-pressed", String(turn.thumb === thumb));
    this.note(isAnswer && !isWriting ? NOTES[turn.finish] ?? "" : "");
    this.showBranches();
  }

  showBranches() {
    const { all, index } = this.acts.branches(this.turn);
    this.find(".branches").hidden = all.length < 2;
    this.find(".branches .which").textContent = `${index + 1} of ${all.length}`;
    this.find(".branches .before").disabled = index === 0;
    this.find(".branches .after").disabled = index === all.length - 1;
  }

  connect() {
    const on = (selector, act) => this.find(selector).addEventListener("click", act);
    on(".copy", () => this.copy());
    on(".again", () => this.acts.again(this.turn));
    on(".edit", () => this.edit());
    on(".scores", () => this.acts.scores(this));
    on(".up", () => this.rate("up"));
    on(".down", () => this.rate("down"));
    on(".branches .before", () => this.acts.move(this.turn, -1));
    on(".branches .after", () => this.acts.move(this.turn, 1));
    on(".text", (event) => this.copyCode(event));
    if (this.turn.role === "assistant") {
      on(".opinion .close", () => this.closeOpinion());
      on(".opinion .go-on", () => this.sendOpinion({ goesOn: true }));
      this.form(".opinion", () => this.sendOpinion({}), () => this.closeOpinion());
    } else {
      on(".rewrite .close", () => this.closeEdit());
      this.form(".rewrite", () => this.rewrite(), () => this.closeEdit());
    }
  }

  form(selector, submit, close) {
    this.find(selector).addEventListener("submit", (event) => {
      event.preventDefault();
      submit();
    });
    this.find(selector).addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit();
      if (event.key !== "Escape") return;
      event.stopPropagation();
      close();
    });
  }

  say(text, { isError = false } = {}) {
    const said = this.find(".said");
    said.textContent = text;
    said.classList.toggle("error", isError);
    this.acts.announce(text);
  }

  async copy() {
    try {
      await navigator.clipboard.writeText(this.turn.content);
      this.say("Copied");
    } catch {
      // Browsers give the clipboard to secure pages only: the person can still copy what is selected.
      getSelection().selectAllChildren(this.find(".text"));
      this.say("Selected: press Ctrl+C to copy");
    }
  }

  async copyCode(event) {
    const button = event.target.closest(".copy-code");
    if (!button) return;
    const pre = button.closest(".code").querySelector("pre");
    try {
      await navigator.clipboard.writeText(pre.textContent);
      button.textContent = "Copied";
      this.acts.announce("Copied");
      setTimeout(() => (button.textContent = "Copy"), 1500);
    } catch {
      getSelection().selectAllChildren(pre);
      this.acts.announce("Selected: press Ctrl+C to copy");
    }
  }

  // A question in other words

  edit() {
    const field = this.find(".rewrite textarea");
    field.value = this.turn.content;
    field.rows = Math.min(10, Math.max(2, field.value.split("\n").length + 1));
    this.tellUnsent("");
    this.find(".rewrite").hidden = false;
    this.find(".text").hidden = true;
    field.focus();
  }

  closeEdit() {
    this.find(".rewrite").hidden = true;
    this.find(".text").hidden = false;
    this.find(".edit").focus();
  }

  async rewrite() {
    const text = this.find(".rewrite textarea").value.trim();
    if (!text) return;
    if (this.acts.isBusy()) {
      this.tellUnsent("Not sent: an answer is being written.");
      return;
    }
    this.tellUnsent("");
    if (await this.acts.edited(this.turn, text)) this.closeEdit(); // else the page says why
  }

  tellUnsent(words) {
    this.find(".unsent").textContent = words;
    this.find(".unsent").hidden = !words;
    if (words) this.acts.announce(words);
  }

  // What a person thinks of an answer

  async rate(thumb) {
    if (this.turn.thumb !== thumb) {
      if (!(await this.store({ thumb }))) return;
      this.turn.thumb = thumb;
      this.show();
      this.say("Thank you");
    }
    this.openOpinion(thumb);
  }

  openOpinion(thumb) {
    const form = this.find(".opinion");
    form.dataset.thumb = thumb;
    this.find(".opinion legend").textContent = thumb === "up" ? "What was good?" : "What was wrong?";
    this.find(".reasons").replaceChildren(...REASONS[thumb].map(reasonChoice(this.turn.id)));
    this.find(".opinion .better").hidden = thumb === "up";
    this.find(".opinion .go-on").hidden = thumb === "up";
    const field = this.find(".opinion textarea");
    const fits = this.turn.content.length <= field.maxLength;
    if (thumb === "down" && !field.value && fits) field.value = this.turn.content;
    field.rows = Math.min(10, Math.max(3, Math.ceil(field.value.length / 70)));
    form.hidden = false;
    if (thumb === "down") this.find(".reasons input").focus({ preventScroll: true });
    form.scrollIntoView({ block: "nearest" });
  }

  async sendOpinion({ goesOn = false }) {
    const { thumb } = this.find(".opinion").dataset;
    const text = this.find(".opinion textarea").value.trim();
    const better = thumb === "down" && text && text !== this.turn.content.trim() ? text : null;
    const reason = this.find(".reasons input:checked")?.value ?? null;
    if ((better || reason) && !(await this.store({ thumb, reason, better_answer: better }))) return;
    this.closeOpinion();
    const isLate = goesOn && better && this.acts.isBusy(); // the conversation cannot go on from it now
    if (isLate) this.say("Kept. An answer is being written, so the conversation stays where it is");
    else if (better || reason) this.say("Thank you, that helps");
    if (goesOn && better && !isLate) this.acts.corrected(this.turn, better);
  }

  closeOpinion() {
    const { thumb } = this.find(".opinion").dataset;
    this.find(".opinion").hidden = true;
    this.find(`.${thumb}`).focus();
  }

  /** Sends a rating; tried again it keeps its key, so that the server stores it once. */
  async store(rating) {
    const content = JSON.stringify(rating);
    if (this.pending?.content !== content) this.pending = { content, key: newId() };
    try {
      await sendFeedback({ answer_id: this.turn.answer_id, key: this.pending.key, ...rating });
      this.pending = undefined;
      return true;
    } catch (failure) {
      this.say(`Not stored: ${failure.message} Press again to retry.`, { isError: true });
      return false;
    }
  }
}

function reasonChoice(turnId) {
  return (reason) => {
    const input = document.createElement("input");
    input.type = "radio";
    input.name = `reason-${turnId}`;
    input.value = reason;
    const label = document.createElement("label");
    label.append(input, reason);
    return label;
  };
}
