// One turn on the page: its text, its notes and what a person can do with an answer.
// Text goes into Text nodes only: whatever a model or a person writes can never become markup.

import { sendRating } from "./api.js";

const NAMES = { user: "You", assistant: "Model" };
const PIECE = 4000; // characters a Text node takes before the next one is begun: keeps long answers quick to lay out

/** Shows `turn` as the last one of `list`. `changed` is called when something of it must be kept. */
export class TurnView {
  constructor(list, turn, { announce, changed, rates }) {
    this.turn = turn;
    this.announce = announce;
    this.changed = changed;
    this.rates = rates;
    this.element = document.getElementById("turn").content.firstElementChild.cloneNode(true);
    this.element.classList.add(turn.role);
    this.find("h2").textContent = NAMES[turn.role];
    this.append(turn.text);
    this.note(turn.note ?? "");
    if (turn.role === "assistant") this.connect();
    else for (const selector of [".actions", ".better"]) this.find(selector).remove();
    list.append(this.element);
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  append(text) {
    const box = this.find(".text");
    if (box.lastChild === null || box.lastChild.length > PIECE) box.append(document.createTextNode(""));
    box.lastChild.appendData(text);
  }

  note(text) {
    this.turn.note = text || undefined;
    this.find(".note").textContent = text;
    this.find(".note").hidden = !text;
  }

  writing(isWriting) {
    if (this.turn.role !== "assistant") return;
    this.element.classList.toggle("writing", isWriting);
    this.find(".actions").hidden = isWriting || !this.turn.text;
    for (const name of [".up", ".down"]) this.find(name).hidden = !this.rates || !this.turn.id;
    this.showThumb();
  }

  connect() {
    this.find(".copy").addEventListener("click", () => this.copy());
    this.find(".up").addEventListener("click", () => this.rate("up"));
    this.find(".down").addEventListener("click", () => this.rate("down"));
    this.find(".better").addEventListener("submit", (event) => {
      event.preventDefault();
      this.sendBetter();
    });
    this.find(".better .close").addEventListener("click", () => this.closeBetter());
    this.find(".better").addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.closeBetter();
    });
  }

  showThumb() {
    for (const thumb of ["up", "down"]) {
      this.find(`.${thumb}`).setAttribute("aria-pressed", String(this.turn.thumb === thumb));
    }
  }

  say(text, { isError = false } = {}) {
    const said = this.find(".said");
    said.textContent = text;
    said.classList.toggle("error", isError);
    this.announce(text);
  }

  async copy() {
    try {
      await navigator.clipboard.writeText(this.turn.text);
      this.say("Copied");
    } catch {
      // Browsers give the clipboard to secure pages only: the person can still copy what is selected.
      getSelection().selectAllChildren(this.find(".text"));
      this.say("Selected: press Ctrl+C to copy");
    }
  }

  async rate(thumb) {
    if (this.turn.thumb !== thumb) {
      const stored = await this.store({ thumb });
      if (!stored) return;
      this.turn.thumb = thumb;
      this.showThumb();
      this.changed();
      this.say("Thank you");
    }
    this.find(".better").hidden = thumb !== "down";
    if (thumb !== "down") return;
    this.find(".better textarea").focus({ preventScroll: true });
    this.find(".better").scrollIntoView({ block: "nearest" });
  }

  async sendBetter() {
    const text = this.find(".better textarea").value.trim();
    if (text && !(await this.store({ thumb: "down", better_answer: text }))) return;
    this.closeBetter();
    if (text) this.say("Thank you, that helps");
  }

  closeBetter() {
    this.find(".better").hidden = true;
    this.find(".down").focus();
  }

  /** Sends a rating; tried again it keeps its key, so that the server stores it once. */
  async store(rating) {
    const content = JSON.stringify(rating);
    if (this.pending?.content !== content) this.pending = { content, key: randomKey() };
    try {
      await sendRating({ answer_id: this.turn.id, key: this.pending.key, ...rating });
      this.pending = undefined;
      return true;
    } catch (failure) {
      this.say(`Not stored: ${failure.message} Press again to retry.`, { isError: true });
      return false;
    }
  }
}

function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
