// What a person says here: whether models may learn from it, a copy of it, and its end. Part of the settings' dialog.

import { forgetMe, me, setConsent } from "./api.js";

const $ = (id) => document.getElementById(id);
const ASK = "Delete everything of mine";
const SURE = "Press again to delete all your conversations, answers and ratings for good";

export class MyData {
  constructor({ forgotten }) {
    this.forgotten = forgotten;
    $("consent").addEventListener("change", () => this.consent());
    $("forget-me").addEventListener("click", () => this.forget());
    $("forget-me").addEventListener("blur", () => this.calm());
  }

  /** Shows how things stand; where the server cannot say, nothing is offered. */
  async show() {
    this.calm();
    $("my-data-said").textContent = "";
    try {
      $("consent").checked = (await me()).is_learned_from;
      $("my-data").hidden = false;
    } catch {
      $("my-data").hidden = true;
    }
  }

  async consent() {
    const agrees = $("consent").checked;
    await this.act(() => setConsent(agrees), agrees ? "Thank you. It counts for what you said before, too." : "Models will not learn from it.");
  }

  async forget() {
    if (!this.isSure) {
      this.isSure = true;
      $("forget-me").textContent = SURE;
      return;
    }
    this.calm();
    if (await this.act(forgetMe, "Everything of yours is deleted.")) this.forgotten();
  }

  calm() {
    this.isSure = false;
    $("forget-me").textContent = ASK;
  }

  async act(ask, said) {
    try {
      await ask();
      $("my-data-said").textContent = said;
      return true;
    } catch (failure) {
      $("my-data-said").textContent = failure.message;
      return false;
    }
  }
}
