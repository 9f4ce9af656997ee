// Markdown that grows: finished blocks are laid down once, only the last one is drawn anew as text comes.
// So an answer of a megabyte costs the same for each piece as a short one.

import { FENCE, blocks, closes, codeBlock } from "./blocks.js";

const LONGEST = 6000; // characters that are drawn anew; a block that grows longer is laid down in parts
const LONG_TEXT = 60000; // past this, what is off the screen is not laid out
const PART_BLOCKS = 60;

/** Shows Markdown in `box`, which belongs to it. */
export class Markdown {
  constructor(box) {
    this.box = box;
    this.length = 0;
    this.tail = ""; // not laid down yet
    this.code = null; // of a code block that was laid down in part: its mark and where its text goes
    this.drawn = []; // the nodes of the tail
    this.part = null; // of a long text: where blocks are laid down now
  }

  append(text) {
    this.tail += text;
    this.length += text.length;
    this.remove();
    while (this.layDown());
    this.draw();
  }

  remove() {
    for (const node of this.drawn) node.remove();
    this.drawn = [];
  }

  draw() {
    if (!this.tail) return;
    this.drawn = this.code ? this.drawCode() : blocks(this.tail);
    if (!this.code) this.box.append(...this.drawn);
  }

  drawCode() {
    const { end, next } = codeEnd(this.tail, this.code.mark);
    const inside = document.createTextNode(this.tail.slice(0, end));
    this.code.place.append(inside);
    const after = blocks(this.tail.slice(next));
    this.box.append(...after);
    return [inside, ...after];
  }

  /** Lays down what no later text can change; whether there may be more. */
  layDown() {
    if (this.code) return this.layDownCode();
    const cut = lastBoundary(this.tail);
    if (cut > 0) {
      this.keep(blocks(this.tail.slice(0, cut)));
      this.tail = this.tail.slice(cut);
      return true;
    }
    if (this.tail.length <= LONGEST) return false;
    const fence = FENCE.exec(this.tail.slice(0, this.tail.indexOf("\n") + 1).trimEnd());
    if (fence && this.tail.includes("\n")) {
      const box = codeBlock(fence[2].trim(), "");
      this.part = null;
      this.box.append(box);
      this.code = { mark: fence[1], pre: box.querySelector("pre"), place: box.querySelector("code") };
      this.tail = this.tail.slice(this.tail.indexOf("\n") + 1);
      return true;
    }
    const end = forcedCut(this.tail);
    const nodes = blocks(this.tail.slice(0, end));
    nodes.at(-1)?.classList.add("unbroken"); // goes on in the next block
    this.keep(nodes);
    this.tail = this.tail.slice(end);
    return true;
  }

  /** Lays down nodes; those of a long text in parts, of which only the visible ones are laid out. */
  keep(nodes) {
    if (this.length <= LONG_TEXT) {
      this.box.append(...nodes);
      return;
    }
    if (!this.part || this.part.childElementCount > PART_BLOCKS) {
      this.part = document.createElement("div");
      this.part.className = "part";
      this.box.append(this.part);
    }
    this.part.append(...nodes);
  }

  layDownCode() {
    const { end, next, isClosed } = codeEnd(this.tail, this.code.mark);
    if (isClosed) {
      this.code.place.append(this.tail.slice(0, end));
      this.tail = this.tail.slice(next);
      this.code = null;
      return true;
    }
    if (this.tail.length <= LONGEST) return false;
    const cut = forcedCut(this.tail);
    this.code.place.append(this.tail.slice(0, cut));
    this.tail = this.tail.slice(cut);
    this.code.place = document.createElement("code"); // each part a box of its own, so that only the last is laid out
    this.code.pre.append(this.code.place);
    return true;
  }
}

/** Where the code in `text` ends, what follows its closing fence, and whether that is there whole. */
function codeEnd(text, mark) {
  let at = 0;
  for (const line of text.split("\n")) {
    const next = at + line.length + 1;
    if (closes(line, mark) && next <= text.length) return { end: Math.max(0, at - 1), next, isClosed: true };
    at = next;
  }
  return { end: text.length, next: text.length, isClosed: false };
}

/** The last empty line outside of code after which a new block surely begins; 0 where there is none. */
function lastBoundary(text) {
  let at = 0;
  let found = 0;
  let fence = null;
  let wasBlank = false;
  for (const line of text.split("\n")) {
    const isWhole = at + line.length < text.length;
    if (wasBlank && fence === null && isWhole && /^[^\s\-*+\d|>]/.test(line)) found = at;
    if (fence === null) fence = isWhole ? FENCE.exec(line)?.[1] ?? null : null;
    else if (closes(line, fence)) fence = null;
    wasBlank = line.trim() === "";
    at += line.length + 1;
  }
  return found;
}

/** Where a block that grew too long is cut: at a line, a space, or at last between two characters. */
function forcedCut(text) {
  const part = text.slice(0, LONGEST);
  const line = part.lastIndexOf("\n") + 1;
  if (line > LONGEST / 2) return line;
  const space = part.lastIndexOf(" ") + 1;
  if (space > LONGEST / 2) return space;
  return /[\ud800-\udbff]$/.test(part) ? LONGEST - 1 : LONGEST;
}
