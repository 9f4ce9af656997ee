// Markdown that grows: finished blocks are laid down once, only the last one is drawn anew as text comes.
// So an answer of a megabyte costs the same for each piece as a short one.

import { FENCE, blocks, closes, codeBlock, openTable } from "./blocks.js";

const LONGEST = 4000; // characters that are drawn anew; a block that grows longer is laid down in parts
const LONG_TEXT = 20000; // past this, what is off the screen is not laid out
const PART = 8000; // characters that are laid out together: many small parts cost each frame, few large ones the last

/** Shows Markdown in `box`, which belongs to it. */
export class Markdown {
  constructor(box) {
    this.length = 0;
    this.tail = ""; // not laid down yet
    this.code = null; // of a code block that was laid down in part: its mark and where its text goes
    this.inCode = null; // the tail's text in a code block that was laid down in part
    this.live = document.createElement("div"); // always last: what is drawn anew changes no other block's style
    this.live.className = "live";
    box.append(this.live);
    this.part = null; // of a long text: where blocks are laid down now
    this.partLength = 0;
  }

  append(text) {
    this.tail += text;
    this.length += text.length;
    this.inCode?.remove();
    this.inCode = null;
    while (this.layDown());
    this.live.replaceChildren(...(this.code ? this.drawCode() : blocks(this.tail)));
  }

  drawCode() {
    const { end, next } = codeEnd(this.tail, this.code.mark);
    this.inCode = document.createTextNode(this.tail.slice(0, end));
    this.code.place.append(this.inCode);
    return blocks(this.tail.slice(next));
  }

  /** Lays down what no later text can change; whether there may be more. */
  layDown() {
    if (this.code) return this.layDownCode();
    const cut = lastBoundary(this.tail);
    if (cut > 0) {
      this.keep(blocks(this.tail.slice(0, cut)), cut);
      this.tail = this.tail.slice(cut);
      return true;
    }
    if (this.tail.length <= LONGEST) return false;
    const fence = FENCE.exec(this.tail.slice(0, this.tail.indexOf("\n") + 1).trimEnd());
    if (fence && this.tail.includes("\n")) {
      const box = codeBlock(fence[2].trim(), "");
      this.part = null;
      this.live.before(box);
      this.code = { mark: fence[1], pre: box.querySelector("pre"), place: box.querySelector("code") };
      this.tail = this.tail.slice(this.tail.indexOf("\n") + 1);
      return true;
    }
    this.layDownPart();
    return true;
  }

  /** Lays down the beginning of a block that grew too long; a table's next part begins with its head again. */
  layDownPart() {
    const end = forcedCut(this.tail);
    const part = this.tail.slice(0, end);
    const rest = this.tail.slice(end);
    const head = rest.slice(0, rest.indexOf("\n") + 1).includes("|") ? openTable(part) : "";
    const nodes = blocks(part);
    nodes.at(-1)?.classList.add("unbroken"); // goes on in the next block
    this.keep(nodes, end);
    this.tail = head.length < end / 2 ? head + rest : rest;
  }

  /** Lays down nodes; those of a long text in parts, of which only the visible ones are laid out. */
  keep(nodes, length) {
    if (this.length <= LONG_TEXT) {
      this.live.before(...nodes);
      return;
    }
    if (!this.part || this.partLength > PART) {
      this.part = document.createElement("div");
      this.part.className = "part";
      this.partLength = 0;
      this.live.before(this.part);
    }
    this.part.append(...nodes);
    this.partLength += length;
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
    this.code.place.className = "part";
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

/** The last place outside of code where a new block surely begins; 0 where there is none. */
function lastBoundary(text) {
  let at = 0;
  let found = 0;
  let fence = null;
  let isOutermost = false; // whether the fence stands at the line's beginning, where it ends all other blocks
  let wasBlank = false;
  for (const line of text.split("\n")) {
    const next = at + line.length + 1;
    const isWhole = next <= text.length;
    if (fence === null) {
      if (wasBlank && isWhole && /^[^\s\-*+\d|>]/.test(line)) found = at;
      fence = isWhole ? FENCE.exec(line)?.[1] ?? null : null;
      isOutermost = fence !== null && /^[`~][^|]*$/.test(line);
      if (isOutermost) found = at;
    } else if (closes(line, fence)) {
      fence = null;
      if (isOutermost && isWhole) found = next;
    }
    wasBlank = line.trim() === "";
    at = next;
  }
  return found;
}

/** Where a block that grew too long is cut: before a line that is not indented, at a line, a space, or between two characters. */
function forcedCut(text) {
  const part = text.slice(0, LONGEST);
  // A whole line stays behind, so that it is known whether a table goes on.
  const last = part.lastIndexOf("\n", part.lastIndexOf("\n") - 1);
  for (let line = last; line > LONGEST / 2; line = part.lastIndexOf("\n", line - 1)) {
    if (/\S/.test(text[line + 1])) return line + 1;
  }
  if (last > LONGEST / 2) return last + 1;
  const space = part.lastIndexOf(" ") + 1;
  if (space > LONGEST / 2) return space;
  return /[\ud800-\udbff]$/.test(part) ? LONGEST - 1 : LONGEST;
}
