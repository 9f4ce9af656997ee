// Two answers side by side. Which model wrote which is told after the choice only: the page itself does not know before.

import { getConversation, sendFeedback } from "./api.js";
import { newId } from "./memory.js";

const CHOICES = { first: "A is better", second: "B is better", tie: "Both are equally good", both_bad: "Both are bad" };

/** Shows the views of two turns; `chosen` is called with the turn to go on from, once the choice is stored. */
export class PairView {
  constructor(views, { announce, chosen, conversation }) {
    this.views = views;
    this.announce = announce;
    this.chosen = chosen;
    this.conversation = conversation;
    this.key = newId();
    this.element = document.getElementById("pair").content.firstElementChild.cloneNode(true);
    views.forEach((view, index) => {
      view.element.querySelector("h2").textContent = `Answer ${"AB"[index]}`;
      view.element.querySelector("h2").classList.remove("unseen");
      this.find(".sides").append(view.element);
    });
    this.find(".choices").replaceChildren(...Object.entries(CHOICES).map(([choice, label]) => this.button(choice, label)));
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  button(choice, label) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "plain";
    button.textContent = label;
    button.dataset.choice = choice;
    button.addEventListener("click", () => this.choose(choice));
    return button;
  }

  writing(isWriting) {
    this.find(".verdict").hidden = isWriting;
  }

  async choose(choice) {
    const [first, second] = this.views.map((view) => view.turn.answer_id);
    const reason = this.find(".verdict input").value.trim() || null;
    const content = JSON.stringify({ choice, reason });
    if (this.sent && this.sent !== content) this.key = newId();
    this.sent = content;
    try {
      await sendFeedback({ first, second, choice, reason, key: this.key });
      await this.reveal(choice);
    } catch (failure) {
      this.find(".said").textContent = `Not stored: ${failure.message} Press again to retry.`;
      this.announce(this.find(".said").textContent);
    }
  }

  async reveal(choice) {
    const told = await getConversation(this.conversation());
    const turns = this.views.map((view) => told.turns.find((turn) => turn.id === view.turn.id));
    turns.forEach((turn, index) => {
      this.views[index].element.querySelector("h2").textContent = `Answer ${"AB"[index]}: ${turn?.model ?? "unknown"}`;
    });
    const winner = choice === "second" ? 1 : 0;
    if (choice === "first" || choice === "second") this.views[winner].element.classList.add("won");
    this.find(".verdict").hidden = true;
    const words = `${CHOICES[choice]}. A was ${turns[0]?.model}, B was ${turns[1]?.model}.`;
    this.find(".outcome").textContent = words;
    this.find(".outcome").hidden = false;
    this.announce(words);
    this.chosen(turns[winner], told);
  }
}
