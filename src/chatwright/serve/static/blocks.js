// Block Markdown as DOM nodes: paragraphs, headings, lists, quotes, code, tables. Nothing is parsed as HTML.

import { inline } from "./inline.js";

const MAX_DEPTH = 8; // of quotes and lists within each other; what lies deeper stays text
export const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`\n]{0,200})$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*)$/;
const ITEM = /^( {0,12})([-*+]|\d{1,9}[.)])( {1,4}|\t)(?=\S)/;
const QUOTE = /^ {0,3}> ?/;

function element(name, ...nodes) {
  const node = document.createElement(name);
  node.append(...nodes);
  return node;
}

/** The nodes of a text made of whole blocks. */
export function blocks(text, depth = 0) {
  const lines = text.split("\n");
  const nodes = [];
  for (let at = 0; at < lines.length;) {
    const read = lines[at].trim() === "" ? { end: at + 1 } : block(lines, at, depth);
    if (read.node) nodes.push(read.node);
    at = read.end;
  }
  return nodes;
}

function block(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return fenced(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) {
    const level = Math.min(6, heading[1].length + 2); // the page's own headings stand above
    return { node: element(`h${level}`, ...inline(heading[2].replace(/[ \t]#{1,6}[ \t]*$/, ""))), end: at + 1 };
  }
  if (isRule(line)) return { node: element("hr"), end: at + 1 };
  if (depth < MAX_DEPTH && QUOTE.test(line)) return quote(lines, at, depth);
  if (depth < MAX_DEPTH && ITEM.test(line)) return list(lines, at, depth);
  if (isTable(lines, at)) return table(lines, at);
  return paragraph(lines, at, depth);
}

function isRule(line) {
  const marks = line.replace(/[ \t]+/g, "");
  return marks.length >= 3 && "-*_".includes(marks[0]) && marks === marks[0].repeat(marks.length);
}

function fenced(lines, at, fence) {
  let end = at + 1;
  while (end < lines.length && !closes(lines[end], fence[1])) end += 1;
  return { node: codeBlock(fence[2].trim(), lines.slice(at + 1, end).join("\n")), end: end + 1 };
}

/** Whether a line ends the fence that `mark` began. */
export function closes(line, mark) {
  const text = line.trim();
  return text.length >= mark.length && text === mark[0].repeat(text.length);
}

/** A box with code, its language's name and a button that copies it. */
export function codeBlock(language, code) {
  const label = element("span", language.split(/\s/)[0].slice(0, 30) || "code");
  const button = element("button", "Copy");
  button.type = "button";
  button.className = "copy-code";
  button.ariaLabel = "Copy this code";
  const head = element("div", label, button);
  head.className = "code-head";
  const pre = element("pre", element("code", code));
  pre.tabIndex = 0; // it scrolls, so the keyboard must reach it
  pre.role = "region";
  pre.ariaLabel = `Code, ${label.textContent}`;
  const box = element("div", head, pre);
  box.className = "code";
  return box;
}

function quote(lines, at, depth) {
  let end = at;
  const inner = [];
  for (; end < lines.length && QUOTE.test(lines[end]); end += 1) inner.push(lines[end].replace(QUOTE, ""));
  return { node: element("blockquote", ...blocks(inner.join("\n"), depth + 1)), end };
}

function list(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const isOrdered = /\d/.test(first[2]);
  const node = element(isOrdered ? "ol" : "ul");
  if (isOrdered && parseInt(first[2], 10) !== 1) node.start = parseInt(first[2], 10);
  let end = at;
  while (end < lines.length) {
    const marker = ITEM.exec(lines[end]);
    if (!marker || marker[1].length < first[1].length || /\d/.test(marker[2]) !== isOrdered || isRule(lines[end])) break;
    const read = item(lines, end, marker, depth);
    node.append(read.node);
    end = read.end;
  }
  return { node, end };
}

function item(lines, at, marker, depth) {
  const indent = marker[0].length;
  const inner = [lines[at].slice(indent)];
  let end = at + 1;
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    const isBlank = line.trim() === "";
    const isDeeper = /^\s/.test(line) && line.search(/\S/) > marker[1].length;
    if (isBlank && !(lines[end + 1] ?? "").match(/^(\s{2,}\S| {0,12}([-*+]|\d{1,9}[.)])\s)/)) break;
    if (!isBlank && !isDeeper && (ITEM.test(line) || lines[end - 1].trim() === "" || startsBlock(line))) break;
    inner.push(line.slice(0, indent).trim() ? line.trimStart() : line.slice(indent));
  }
  const task = /^\[([ xX])\] /.exec(inner[0]);
  if (task) inner[0] = `${task[1] === " " ? "☐" : "☑"} ${inner[0].slice(4)}`;
  return { node: element("li", ...tight(blocks(inner.join("\n"), depth + 1))), end };
}

/** An item of one paragraph needs no paragraph of its own. */
function tight(nodes) {
  return nodes[0]?.nodeName === "P" && nodes.slice(1).every((node) => ["UL", "OL"].includes(node.nodeName))
    ? [...nodes[0].childNodes, ...nodes.slice(1)] : nodes;
}

function startsBlock(line) {
  return FENCE.test(line) || HEADING.test(line) || QUOTE.test(line) || isRule(line);
}

function cells(line) {
  return line.trim().replace(/^\|/, "").replace(/\|$/, "").split(/(?<!\\)\|/).map((cell) => cell.trim());
}

export function isTable(lines, at) {
  const rule = lines[at + 1];
  if (!lines[at].includes("|") || !rule?.includes("-") || !/^[\s|:-]+$/.test(rule)) return false;
  const marks = cells(rule);
  return marks.length === cells(lines[at]).length && marks.every((mark) => /^:?-+:?$/.test(mark));
}

/** The head of the table in which `text`, made of whole lines, ends; nothing where it ends in no table. */
export function openTable(text) {
  const lines = text.split("\n").slice(0, -1);
  let head = lines.length;
  while (head > 0 && lines[head - 1].includes("|")) head -= 1;
  while (head < lines.length && !isTable(lines, head)) head += 1;
  return head < lines.length ? `${lines[head]}\n${lines[head + 1]}\n` : "";
}

function table(lines, at) {
  const marks = cells(lines[at + 1]);
  const align = marks.map((mark) => (mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "end") : "start"));
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const head = element("thead", row("th", cells(lines[at]), align));
  const body = element("tbody", ...lines.slice(at + 2, end).map((line) => row("td", cells(line), align)));
  const box = element("div", element("table", head, body));
  box.className = "table";
  box.tabIndex = 0;
  box.role = "region";
  box.ariaLabel = "Table";
  return { node: box, end };
}

function row(kind, texts, align) {
  return element("tr", ...align.map((side, column) => {
    const cell = element(kind, ...inline((texts[column] ?? "").replaceAll("\\|", "|")));
    cell.className = side;
    return cell;
  }));
}

function paragraph(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !startsBlock(lines[end])
    && !(depth < MAX_DEPTH && ITEM.test(lines[end])) && !isTable(lines, end)) end += 1;
  return { node: element("p", ...inline(lines.slice(at, end).join("\n").trim())), end };
}
