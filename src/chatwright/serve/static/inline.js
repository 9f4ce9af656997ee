// Inline Markdown as DOM nodes: code, emphasis, links. Text goes into Text nodes only; no markup is ever parsed by the
// browser, no image is fetched, and a link leads to http, https or mail. What is not closed stays text.

const MAX_DEPTH = 6;
const LINK = /\[([^[\]]{1,1000})\]\(([^()\s]{1,2000}(?:\([^()\s]{0,500}\)[^()\s]{0,500})?)(?:\s+"[^"]{0,500}")?\)/y;
const ADDRESS = /https?:\/\/[^\s<>"'`|\\]{1,2000}/y;
const WORD = /[\p{L}\p{N}]/u;
const ESCAPED = /[!-/:-@[-`{-~]/;
const SPECIAL = /[\\`*_~[h!]/g;
const MARKS = [["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];

/** The nodes of a line or paragraph. */
export function inline(text, depth = 0) {
  const scan = { text, depth, nodes: [], plain: "", unclosed: new Set() };
  let at = 0;
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const next = SPECIAL.exec(text)?.index ?? text.length;
    scan.plain += text.slice(at, next);
    at = next < text.length ? step(scan, next) : next;
  }
  flush(scan);
  return scan.nodes;
}

function flush(scan) {
  if (scan.plain) scan.nodes.push(document.createTextNode(scan.plain));
  scan.plain = "";
}

function put(scan, node) {
  flush(scan);
  scan.nodes.push(node);
}

/** Reads what begins at `at`; gives where to go on. */
function step(scan, at) {
  const { text } = scan;
  const letter = text[at];
  if (letter === "\\" && ESCAPED.test(text[at + 1] ?? "")) {
    scan.plain += text[at + 1];
    return at + 2;
  }
  if (letter === "!") return skipImage(scan, at);
  const end = letter === "`" ? code(scan, at)
    : letter === "[" ? link(scan, at)
    : letter === "h" ? address(scan, at)
    : emphasis(scan, at);
  if (end !== null) return end;
  const run = letter === "`" ? runLength(text, at) : 1;
  scan.plain += text.slice(at, at + run);
  return at + run;
}

/** An image stays the text it was written as: fetching it would tell its host that somebody reads. */
function skipImage(scan, at) {
  LINK.lastIndex = at + 1;
  const found = LINK.exec(scan.text);
  const end = found ? LINK.lastIndex : at + 1;
  scan.plain += scan.text.slice(at, end);
  return end;
}

function runLength(text, at) {
  let end = at;
  while (text[end] === "`") end += 1;
  return end - at;
}

function code(scan, at) {
  const { text, unclosed } = scan;
  const length = runLength(text, at);
  if (unclosed.has(length)) return null;
  for (let close = text.indexOf("`", at + length); close >= 0;) {
    const found = runLength(text, close);
    if (found === length) {
      const inner = text.slice(at + length, close).replaceAll("\n", " ");
      const node = document.createElement("code");
      node.textContent = /^ .*[^ ].* $/.test(inner) ? inner.slice(1, -1) : inner;
      put(scan, node);
      return close + length;
    }
    close = text.indexOf("`", close + found);
  }
  unclosed.add(length);
  return null;
}

function link(scan, at) {
  LINK.lastIndex = at;
  const found = LINK.exec(scan.text);
  const url = found && safe(found[2]);
  if (!url) return null;
  put(scan, anchor(url, inline(found[1], MAX_DEPTH)));
  return LINK.lastIndex;
}

function address(scan, at) {
  if (WORD.test(scan.text[at - 1] ?? "")) return null;
  ADDRESS.lastIndex = at;
  const found = ADDRESS.exec(scan.text)?.[0].replace(/[.,;:!?)\]}*_]{1,20}$/, "");
  const url = found && scan.depth < MAX_DEPTH && safe(found);
  if (!url) return null;
  put(scan, anchor(url, [document.createTextNode(found)]));
  return at + found.length;
}

function safe(address) {
  try {
    const url = new URL(address);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function anchor(url, nodes) {
  const node = document.createElement("a");
  node.href = url;
  node.rel = "noopener noreferrer nofollow";
  node.target = "_blank";
  node.title = url;
  node.append(...nodes);
  return node;
}

function emphasis(scan, at) {
  const { text, depth, unclosed } = scan;
  if (depth >= MAX_DEPTH) return null;
  for (const [mark, name] of MARKS) {
    if (!text.startsWith(mark, at) || unclosed.has(mark)) continue;
    const close = closing(text, at, mark);
    if (close === null) continue;
    if (close < 0) {
      unclosed.add(mark);
      continue;
    }
    const node = document.createElement(name);
    node.append(...inline(text.slice(at + mark.length, close), depth + 1));
    put(scan, node);
    return close + mark.length;
  }
  return null;
}

/** Where a mark that opens at `at` closes; -1 where it never does, null where it does not open. */
function closing(text, at, mark) {
  const first = text[at + mark.length];
  if (first === undefined || /\s/.test(first)) return null;
  const isWordy = mark[0] === "_";
  if (isWordy && WORD.test(text[at - 1] ?? "")) return null;
  for (let close = text.indexOf(mark, at + mark.length); close >= 0; close = text.indexOf(mark, close + 1)) {
    const after = text[close + mark.length] ?? "";
    if (close === at + mark.length || /\s/.test(text[close - 1]) || text[close - 1] === "\\") continue;
    if (mark.length === 1 && (after === mark || text[close - 1] === mark)) continue;
    if (!isWordy || !WORD.test(after)) return close;
  }
  return -1;
}
