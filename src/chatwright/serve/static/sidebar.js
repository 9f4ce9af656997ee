// The list of conversations: the latest first, found again by a word, in a drawer on narrow screens.

import { findConversations } from "./api.js";

const $ = (id) => document.getElementById(id);
const WAIT_MS = 200; // after the last key before the server is asked

/** `open` is called with a conversation's id, `failed` with what went wrong. */
export class Sidebar {
  constructor({ open, failed, announce }) {
    this.open = open;
    this.failed = failed;
    this.announce = announce;
    this.current = null;
    this.shown = [];
    this.asked = 0;
    this.connect();
  }

  connect() {
    let timer = null;
    $("find").addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.refresh({ tells: true }), WAIT_MS);
    });
    $("more").addEventListener("click", () => this.more());
    $("menu").addEventListener("click", () => this.toggle(true));
    $("hide").addEventListener("click", () => this.toggle(false));
    $("shade").addEventListener("click", () => this.toggle(false));
    $("side").addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.isDrawer()) return;
      event.stopPropagation();
      this.toggle(false);
    });
  }

  isDrawer() {
    return $("menu").checkVisibility();
  }

  toggle(isOpen) {
    if (!this.isDrawer() && isOpen) return;
    document.body.classList.toggle("drawer", isOpen);
    $("menu").setAttribute("aria-expanded", String(isOpen));
    $("page").inert = isOpen;
    if (isOpen) $("hide").focus();
    else if ($("side").contains(document.activeElement)) $("menu").focus();
  }

  /** Brings the list up to date. */
  async refresh({ tells = false } = {}) {
    const mine = ++this.asked;
    try {
      const { data, has_more: hasMore } = await findConversations($("find").value.trim());
      if (mine !== this.asked) return; // a later question was asked meanwhile
      this.shown = data;
      this.show(hasMore);
      if (tells) this.announce(`${data.length}${hasMore ? " or more" : ""} conversations found.`);
    } catch (failure) {
      $("none").hidden = false; // beside the list: what went wrong in the conversation must stay readable
      $("none").textContent = failure.message;
    }
  }

  async more() {
    try {
      const { data, has_more: hasMore } = await findConversations($("find").value.trim(), this.shown.at(-1)?.updated);
      this.shown.push(...data);
      this.show(hasMore);
    } catch (failure) {
      this.failed(failure);
    }
  }

  show(hasMore) {
    $("conversations").replaceChildren(...this.shown.map((one) => this.line(one)));
    $("none").hidden = this.shown.length > 0;
    $("none").textContent = $("find").value.trim() ? "Nothing found." : "Your conversations will stand here.";
    $("more").hidden = !hasMore;
  }

  line(one) {
    const link = document.createElement("a");
    link.href = `#${one.id}`;
    link.textContent = one.title || "Without a title";
    link.title = `${link.textContent}\n${new Date(1000 * one.updated).toLocaleString()}`;
    if (one.id === this.current) link.setAttribute("aria-current", "true");
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.toggle(false);
      this.open(one.id);
    });
    const item = document.createElement("li");
    item.append(link);
    return item;
  }

  mark(id) {
    this.current = id;
    for (const link of $("conversations").querySelectorAll("a")) {
      if (link.hash === `#${id}`) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }
}
