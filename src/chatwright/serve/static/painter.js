// Brings text to the page once a frame, and not more of it than a frame has time for, however fast it comes and however
// many turns grow at once. Knows nothing of what the text means.

const GOAL_MS = 12; // what a frame may take with laying out and painting; more text than that waits for the next one
const MOST = 12000; // characters a frame
const LEAST = 1000; // a frame costs something however little it brings
const AT_ONCE = 12000; // characters that are put without a frame of their own, in one task
const BEGIN = 3000; // characters of the first frame, whose cost is not known yet

const busy = []; // painters with text that waits; the first has the next turn
const afterwards = new MessageChannel(); // a message comes when the frame is laid out and painted
let frame = null;
let began = 0;
let room = BEGIN;
let put = 0; // characters put at once since the last frame

afterwards.port1.onmessage = () => learn(performance.now() - began);

function learn(took) {
  const share = GOAL_MS / Math.max(1, took);
  room = Math.round(Math.min(MOST, Math.max(LEAST, room * Math.min(1.5, Math.max(0.25, share)))));
}

function ask() {
  frame ??= requestAnimationFrame(paint);
}

function paint() {
  frame = null;
  put = 0;
  began = performance.now();
  for (let left = room; busy.length && left > 0;) {
    const painter = busy.shift();
    left -= painter.paint(Math.min(left, Math.ceil(room / (busy.length + 1))));
    if (painter.isEmpty) painter.tell();
    else busy.push(painter);
  }
  if (busy.length) ask();
  afterwards.port2.postMessage(null);
}

export class Painter {
  /** `put` takes text; `painted` is called after each time. */
  constructor(put, painted) {
    this.put = put;
    this.painted = painted;
    this.waiting = [];
    this.whenEmpty = [];
  }

  get isEmpty() {
    return this.waiting.length === 0;
  }

  add(text) {
    if (!text) return;
    if (this.isEmpty) busy.push(this);
    this.waiting.push(text);
    ask();
  }

  /** A text that is known whole: put at once, unless so much was put already that the page would stand still. */
  begin(text) {
    if (put + text.length > AT_ONCE) {
      this.add(text);
      return;
    }
    put += text.length;
    ask();
    this.put(text);
  }

  /** Puts at most so many characters; gives how many. */
  paint(most) {
    const now = [];
    let left = most;
    while (this.waiting.length && left > 0) {
      const text = this.waiting.shift();
      const cut = /[\ud800-\udbff]/.test(text[left - 1] ?? "") ? left - 1 : left;
      now.push(text.slice(0, cut));
      if (text.length > cut) this.waiting.unshift(text.slice(cut));
      left -= Math.min(cut, text.length) || left;
    }
    this.put(now.join(""));
    this.painted();
    return most - left;
  }

  tell() {
    for (const tell of this.whenEmpty.splice(0)) tell();
  }

  /** Resolves when everything stands on the page. In a page that is not seen there are no frames: it is put at once. */
  async done() {
    if (this.isEmpty) return;
    if (!document.hidden) {
      await new Promise((resolve) => this.whenEmpty.push(resolve));
      return;
    }
    busy.splice(busy.indexOf(this), 1);
    while (!this.isEmpty) this.paint(MOST);
  }

  /** Forgets what waits: its turn is no longer shown. */
  stop() {
    if (!this.isEmpty) busy.splice(busy.indexOf(this), 1);
    this.waiting = [];
    this.tell();
  }
}
