// Brings text to the page once a frame, and not more of it than a frame has time for, however fast it comes.

const MOST = 24000; // characters a frame
const LEAST = 4000; // a frame costs something however little it brings
const GOAL_MS = 25; // what a frame may take; more text than that fits waits for the next one

export class Painter {
  /** `put` takes text; `painted` is called after each frame. */
  constructor(put, painted) {
    this.put = put;
    this.painted = painted;
    this.waiting = [];
    this.frame = null;
    this.whenEmpty = [];
    this.room = 4000;
  }

  add(text) {
    if (!text) return;
    this.waiting.push(text);
    this.frame ??= requestAnimationFrame(() => this.paint());
  }

  paint() {
    this.frame = null;
    const began = performance.now();
    let { room } = this;
    const now = [];
    while (this.waiting.length && room > 0) {
      const text = this.waiting.shift();
      const cut = /[\ud800-\udbff]/.test(text[room - 1] ?? "") ? room - 1 : room;
      now.push(text.slice(0, cut));
      if (text.length > cut) this.waiting.unshift(text.slice(cut));
      room -= Math.min(cut, text.length) || room;
    }
    this.put(now.join(""));
    this.painted(); // lays out, since it asks how high the page is
    const share = GOAL_MS / Math.max(1, performance.now() - began);
    this.room = Math.round(Math.min(MOST, Math.max(LEAST, this.room * Math.min(2, Math.max(0.3, share)))));
    if (this.waiting.length) this.frame = requestAnimationFrame(() => this.paint());
    else for (const tell of this.whenEmpty.splice(0)) tell();
  }

  /** Resolves when everything stands on the page. In a page that is not seen there are no frames: it is put at once. */
  async done() {
    if (this.frame === null) return;
    if (!document.hidden) {
      await new Promise((resolve) => this.whenEmpty.push(resolve));
      return;
    }
    cancelAnimationFrame(this.frame);
    while (this.waiting.length) this.paint();
  }
}
