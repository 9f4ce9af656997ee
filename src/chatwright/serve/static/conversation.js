// One conversation on the page: its turns, asking, answering, branches. The server holds the truth; this shows it.

import * as api from "./api.js";
import { newId } from "./memory.js";
import { PairView } from "./pair.js";
import { scoresPanel } from "./scores.js";
import { newestBelow, openPair, pathTo, siblings } from "./tree.js";
import { TurnView } from "./turns.js";

const $ = (id) => document.getElementById(id);
const NEAR_END = 80; // pixels from the end within which the page follows the text

export class Conversation {
  /** The page is told through `announce`, `tellTrouble`, `changed` and `running`. */
  constructor(page) {
    this.page = page;
    this.server = null;
    this.compares = false;
    this.kept = null; // as the server told it last
    this.wanted = null; // the reading that may still set it: the one asked for last
    this.planned = { system: "", settings: {} }; // of a conversation that is not begun
    this.views = [];
    this.controller = null;
    this.follows = true; // whether the page goes along with the text as it grows
    $("main").addEventListener("scroll", () => this.noticeScroll(), { passive: true });
    $("latest").addEventListener("click", () => {
      this.scrollToEnd();
      $("question").focus();
    });
    this.acts = {
      announce: page.announce,
      painted: () => this.afterPaint(),
      branches: (turn) => this.branches(turn),
      move: (turn, step) => this.move(turn, step),
      again: (turn) => this.answer(turn.parent),
      isBusy: () => this.isRunning,
      edited: (turn, text) => this.askAt(turn.parent, text),
      corrected: (turn, text) => this.correct(turn, text),
      scores: (view) => this.showScores(view),
    };
  }

  get isRunning() {
    return this.controller !== null;
  }

  get hasTurns() {
    return this.views.length > 0;
  }

  get configuration() {
    return this.kept ?? this.planned;
  }

  // Which conversation

  begin() {
    this.stay();
    this.kept = null;
    this.planned = { system: "", settings: {} };
    $("omitted").hidden = true;
    this.showPath();
    this.page.changed();
  }

  async open(id) {
    const wanted = (this.wanted = Symbol(id));
    const isLate = () => this.wanted !== wanted; // somebody went on to another one meanwhile
    const told = await api.getConversation(id).catch((failure) => {
      if (!isLate()) throw failure;
    });
    if (isLate()) return;
    this.kept = told;
    $("omitted").hidden = true; // until the server says so of this one
    this.showPath();
    this.page.changed();
  }

  /** What is shown stays: another one that is still being read comes too late. */
  stay() {
    this.wanted = null;
  }

  async refresh() {
    if (!this.kept || this.isRunning) return;
    const before = JSON.stringify(this.kept);
    const told = await api.getConversation(this.kept.id);
    if (this.isRunning || told.id !== this.kept?.id || JSON.stringify(told) === before) return;
    this.kept = told;
    this.showPath();
    this.page.changed();
  }

  async change(changes) {
    this.kept = await api.changeConversation(this.kept.id, changes);
    this.page.changed();
  }

  async configure(wanted) {
    if (this.kept) await this.change(wanted);
    else this.planned = wanted;
  }

  // What stands on the page

  showPath() {
    const path = this.kept ? pathTo(this.kept.turns, this.kept.leaf) : [];
    const standing = this.keepStanding(path);
    for (const turn of path.slice(standing)) this.show(turn);
    const last = path.at(-1);
    this.page.tellTrouble(null);
    if (last?.role === "user" && !this.isRunning) {
      this.page.tellTrouble("This message has no answer yet.", { again: () => this.answer(last.id) });
    }
    this.follows = true;
    this.scrollToEnd();
  }

  /** What of the path stands on the page already stays there, all else goes; gives how many turns stayed. */
  keepStanding(path) {
    const isSame = (view, turn) =>
      view.element.parentElement === $("turns") && view.turn.id === turn.id && view.turn.content === turn.content;
    let count = 0;
    while (count < this.views.length && count < path.length && isSame(this.views[count], path[count])) count += 1;
    for (const view of this.views.splice(count)) view.remove();
    for (const element of [...$("turns").children].slice(count)) element.remove();
    this.views.forEach((view, place) => view.take(path[place]));
    return count;
  }

  show(turn) {
    const pair = openPair(this.kept?.turns ?? [], turn);
    if (pair) {
      this.addPair(pair.map((half) => this.view(half)));
      return;
    }
    this.add(this.view(turn));
  }

  view(turn) {
    return new TurnView({ ...turn }, this.acts);
  }

  add(view) {
    this.views.push(view);
    $("turns").append(view.element);
    return view;
  }

  addPair(views) {
    const pair = new PairView(views, {
      announce: this.page.announce,
      conversation: () => this.kept.id,
      chosen: (turn, told) => this.afterChoice(turn, told),
    });
    this.views.push(...views);
    $("turns").append(pair.element);
    return pair;
  }

  async afterChoice(turn, told) {
    this.kept = told;
    const last = told.turns.find((other) => other.id === told.leaf);
    // Only who stands at the pair goes over to the other half; who went on from it stays where they are.
    if (turn && last?.pair && last.pair === turn.pair) this.kept = await api.changeConversation(told.id, { leaf: turn.id });
    for (const view of this.views) {
      const known = this.kept.turns.find((other) => other.id === view.turn.id);
      if (known) view.take(known);
    }
  }

  branches(turn) {
    const all = this.kept ? siblings(this.kept.turns, turn) : [];
    return { all, index: all.findIndex((other) => other.id === turn.id) };
  }

  async move(turn, step) {
    if (this.isRunning) return;
    const { all, index } = this.branches(turn);
    const next = all[index + step];
    if (!next) return;
    try {
      await this.change({ leaf: newestBelow(this.kept.turns, next).id });
    } catch (failure) {
      this.page.tellTrouble(failure.message);
      return;
    }
    this.showPath();
    const shown = this.views.find((view) => view.turn.id === next.id);
    shown?.element.scrollIntoView({ block: "nearest" });
    const button = shown?.find(step < 0 ? ".branches .before" : ".branches .after");
    (button?.disabled ? shown.find(step < 0 ? ".branches .after" : ".branches .before") : button)?.focus();
    this.page.announce(`Version ${index + step + 1} of ${all.length}`);
  }

  // Asking and answering

  /** Whether the question is kept; it is answered then. */
  ask(text) {
    return this.askAt(this.leaf(), text);
  }

  /** The turn below which the person goes on: a message without an answer is said anew, in other words. */
  leaf() {
    const last = this.kept && pathTo(this.kept.turns, this.kept.leaf).at(-1);
    if (!last) return null;
    return last.role === "user" ? last.parent : last.id;
  }

  async askAt(parent, text) {
    if (this.isRunning) return false;
    this.stay();
    this.page.tellTrouble(null);
    this.controller = new AbortController();
    this.page.running(true);
    const turn = { id: newId(), parent, role: "user", content: text };
    try {
      await this.keep(turn);
    } catch (failure) {
      this.page.tellTrouble(failure.message, { again: () => this.askAt(parent, text) });
      this.end();
      return false;
    }
    this.end({ goesOn: true });
    this.showPath();
    this.page.changed({ isTouched: true });
    this.answer(turn.id);
    return true;
  }

  async keep(turn) {
    this.kept ??= await api.createConversation({ id: newId(), ...this.planned });
    this.kept = await api.addTurn(this.kept.id, turn);
  }

  end({ goesOn = false } = {}) {
    this.controller = null;
    if (!goesOn) this.page.running(false);
  }

  stop() {
    this.controller?.abort();
  }

  editLast() {
    const last = this.views.findLast((view) => view.turn.role === "user");
    if (!last || this.isRunning) return false;
    last.edit();
    return true;
  }

  /** Puts an answer as the person would have it beside the model's, and goes on from there. */
  async correct(turn, text) {
    if (this.isRunning) return;
    try {
      await this.keep({ id: newId(), parent: turn.parent, role: "assistant", content: text });
      this.showPath();
      this.page.changed({ isTouched: true });
      $("question").focus();
    } catch (failure) {
      this.page.tellTrouble(failure.message);
    }
  }

  async answer(parent) {
    if (this.isRunning || !this.kept) return;
    const { id } = this.kept;
    const controller = new AbortController();
    this.controller = controller;
    this.page.running(true);
    this.page.tellTrouble(null);
    this.kept.leaf = parent;
    if (this.views.at(-1)?.turn.id !== parent) this.showPath();
    this.page.announce("The model is answering.");
    const writing = this.newAnswer(parent);
    try {
      await this.write(writing, { id, parent }, controller.signal);
    } catch (failure) {
      writing.failure = failure;
    }
    await Promise.all(writing.views.map((view) => view.painter.done()));
    if (this.kept?.id === id) await this.afterAnswer(writing, parent);
    else this.end(); // the person is in another conversation by now
  }

  newAnswer(parent) {
    const count = this.compares ? 2 : 1;
    const fresh = () => this.view({ id: null, parent, role: "assistant", content: "", finish: null });
    const views = Array.from({ length: count }, fresh);
    const pair = count > 1 ? this.addPair(views) : null;
    if (!pair) this.add(views[0]);
    pair?.writing(true);
    for (const view of views) view.show({ isWriting: true });
    this.follows = true;
    this.scrollToEnd();
    return { views, pair, failure: null };
  }

  async write({ views }, { id, parent }, signal) {
    const wanted = { parent, compare: views.length > 1 };
    for await (const event of api.streamAnswer(id, wanted, signal)) {
      if (event.turns) {
        for (const { index, ...told } of event.turns) Object.assign(views[index].turn, told);
        if (this.kept?.id === id) $("omitted").hidden = !event.omitted;
      }
      for (const choice of event.choices ?? []) {
        if (choice.delta.content) views[choice.index].write(choice.delta.content);
        if (choice.finish_reason) views[choice.index].show();
      }
    }
  }

  async afterAnswer(writing, parent) {
    const { views, failure } = writing;
    const controller = this.controller;
    const wasStopped = failure?.name === "AbortError";
    if (failure && !wasStopped && !(failure instanceof api.Failure)) console.error(failure);
    const isWhole = !failure || (wasStopped && views.every((view) => view.turn.content));
    if (!isWhole) {
      this.end(); // at once: the server may not answer any more
      this.tellBreak(views, parent, wasStopped, failure);
    }
    await this.takeOver(writing, { controller, isWhole, wasStopped });
    // Not before: what is asked next stands below the answer, which is known only now.
    if (isWhole && this.controller === controller) this.end();
  }

  async takeOver({ views, pair, failure }, { controller, isWhole, wasStopped }) {
    try {
      const id = this.kept?.id;
      const told = await this.settled(id, views, wasStopped);
      const isElsewhere = this.kept?.id !== id || (this.isRunning && this.controller !== controller);
      if (isElsewhere) return; // the person went on by now
      this.kept = told;
      if (!isWhole) this.kept.leaf = this.views.at(-1)?.turn.id ?? null;
    } catch (problem) {
      if (!failure) this.page.tellTrouble(problem.message);
    }
    for (const view of views) {
      const known = this.kept?.turns.find((turn) => turn.id === view.turn.id);
      const ended = failure ? "failed" : view.turn.finish;
      // A busy server may not know yet that its answer was stopped; the page does.
      view.take(known ? { ...known, finish: known.finish ?? (wasStopped ? "cancelled" : ended) } : { ...view.turn, finish: ended });
    }
    pair?.writing(false);
    if (isWhole) this.page.announce(wasStopped ? "Stopped." : `Answer: ${views[0].turn.content.slice(0, 2000)}`);
    for (const view of this.views) view.showBranches();
    this.page.changed({ isTouched: true });
    if (this.follows) this.scrollToEnd();
  }

  /** The conversation once the server has noticed how its answers ended; after a stop that takes it a moment. */
  async settled(id, views, wasStopped) {
    for (let attempt = 0; ; attempt += 1) {
      const told = await api.getConversation(id);
      const open = told.turns.some((turn) => views.some((view) => view.turn.id === turn.id) && turn.finish === null);
      if (!open || !wasStopped || attempt >= 20) return told;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  tellBreak(views, parent, wasStopped, failure) {
    if (views.some((view) => !view.turn.content)) {
      for (const view of views) view.element.closest(".pair")?.remove();
      for (const view of views) view.remove();
      this.views = this.views.filter((view) => !views.includes(view));
    }
    for (const view of views) view.take({ ...view.turn, finish: "failed" });
    const words = wasStopped ? "Stopped before a word came." : failure.message;
    this.page.tellTrouble(words, { again: () => this.answer(parent) });
    this.page.announce(words);
  }

  async showScores(view) {
    const old = view.element.querySelector(".probabilities");
    const close = () => {
      view.element.querySelector(".probabilities")?.remove();
      view.find(".scores").setAttribute("aria-expanded", "false");
      view.find(".scores").focus();
    };
    if (old) {
      close();
      return;
    }
    view.say("Reading the answer again …");
    try {
      const { tokens } = await api.getProbabilities(this.kept.id, view.turn.id);
      const panel = scoresPanel(tokens, { close });
      view.element.append(panel);
      view.find(".scores").setAttribute("aria-expanded", "true");
      view.say("");
      panel.querySelector(".tokens button")?.focus({ preventScroll: true });
      panel.scrollIntoView({ block: "nearest" });
    } catch (failure) {
      view.say(failure.message, { isError: true });
    }
  }

  // Where the page stands

  noticeScroll() {
    const main = $("main");
    this.follows = main.scrollHeight - main.scrollTop - main.clientHeight < NEAR_END;
    $("latest").hidden = this.follows;
  }

  afterPaint() {
    if (this.follows) this.scrollToEnd();
  }

  scrollToEnd() {
    $("main").scrollTop = $("main").scrollHeight;
  }
}
