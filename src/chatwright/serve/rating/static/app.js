// The raters' page. Text is set as text only; nothing is judged here, and no model's name ever arrives.
import { Refused, ask, mayPass } from "./api.js";

const byId = (id) => document.getElementById(id);
const TOKEN = "chatwright-rater";
const PENDING = "chatwright-pending";
const WAITS_MS = [500, 1000, 2000, 4000, 8000, 15000];
const CHOICES = [
  ["left", "The left (first) answer is better"], ["right", "The right (second) answer is better"],
  ["tie", "Both are equally good"], ["both_bad", "Both are bad"],
];

let scales = [];
let token = null;
let shown = null;
let lastId = null;
let retry = null;

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function show(id) {
  for (const part of ["join", "work", "end"]) byId(part).hidden = part !== id;
}

function say(text) { byId("status").textContent = text; }

function trouble(text) {
  byId("trouble").hidden = !text;
  byId("trouble-text").textContent = text ?? "";
}

function guide() {
  const list = element("dl");
  for (const scale of scales) {
    list.append(element("dt", { textContent: scale.name }), element("dd", { textContent: scale.meaning }));
    for (const example of scale.examples) {
      list.append(element("dd", { textContent: `“${example.text}” is a ${example.score}.` }));
    }
  }
  byId("guide-text").replaceChildren(list);
}

function radios(name, legend, options) {
  const set = element("fieldset", {}, element("legend", { textContent: legend }));
  for (const [value, text] of options) {
    const input = element("input", { type: "radio", name, value, required: true });
    set.append(element("label", {}, input, element("span", { textContent: text })));
  }
  return set;
}

function render(next) {
  shown = next;
  byId("who").textContent = `${next.rater.name}, ${next.rater.kind}`;
  byId("course").hidden = false;
  byId("progress").max = Math.max(1, next.total);
  byId("progress").value = next.done;
  byId("count").textContent = `${next.done} of ${next.total} judged`;
  byId("undo").disabled = byId("undo-end").disabled = !next.can_undo;
  if (!next.item) {
    show("end");
    say("All items are judged.");
    return;
  }
  show("work");
  const item = next.item;
  byId("asked").textContent = item.asked;
  byId("answers").replaceChildren(...item.answers.map((text, index) => element("section", {},
    element("h2", { textContent: item.kind === "pair" ? ["Left (first) answer", "Right (second) answer"][index] : "Answer" }),
    element("p", { className: "text", textContent: text || "(nothing)" }))));
  const parts = item.kind === "pair"
    ? [radios("choice", "Which answer is better?", CHOICES)]
    : item.dimensions.map((key) => {
        const scale = scales.find((entry) => entry.key === key);
        return radios(key, `${scale.name}: ${scale.question}`, scale.anchors.map((text, place) => [place + 1, `${place + 1} · ${text}`]));
      });
  byId("judgement").replaceChildren(...parts);
  byId("guide").hidden = item.kind === "pair";
  byId("note").value = byId("better").value = "";
  byId("more").open = false;
  byId("keys").textContent = item.kind === "pair"
    ? "Keys: 1 left, 2 right, 3 equal, 4 both bad; Enter saves; U undoes."
    : "Keys: 1 to 5 answer the scales one after the other; Enter saves; U undoes.";
  say(`Item ${next.done + 1} of ${next.total}`);
  byId("judgement").querySelector("input").focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function answersGiven() {
  const given = new FormData(byId("work"));
  if (shown.item.kind === "pair") return { choice: given.get("choice") };
  return { scores: Object.fromEntries(shown.item.dimensions.map((key) => [key, Number(given.get(key))])) };
}

function save() {
  if (!shown?.item || localStorage.getItem(PENDING)) return;
  const missing = [...byId("judgement").querySelectorAll("fieldset")].find((set) => !set.querySelector(":checked"));
  if (missing) {
    say(`Not yet answered: ${missing.querySelector("legend").textContent}`);
    missing.querySelector("input").focus();
    return;
  }
  const judgement = {
    token, item: shown.item.id, occasion: shown.item.occasion, key: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`,
    ...answersGiven(), note: byId("note").value || null, better: byId("better").value || null,
  };
  localStorage.setItem(PENDING, JSON.stringify(judgement));
  send(0);
}

/** Send what is pending until the server has it, waiting a little longer each time. */
async function send(attempt) {
  clearTimeout(retry);
  const judgement = JSON.parse(localStorage.getItem(PENDING) ?? "null");
  if (!judgement) return;
  byId("save").disabled = true;
  try {
    const told = await ask("v1/rating/judge", judgement);
    localStorage.removeItem(PENDING);
    lastId = told.id;
    trouble(null);
    render(told.next);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (mayPass(error)) {
      trouble(`${error.message} Your judgement is kept here and sent again by itself.`);
      retry = setTimeout(() => send(attempt + 1), WAITS_MS[Math.min(attempt, WAITS_MS.length - 1)]);
      return;
    }
    localStorage.removeItem(PENDING);
    await refresh();
    trouble(error.message);
  } finally {
    byId("save").disabled = Boolean(localStorage.getItem(PENDING));
  }
}

async function undo() {
  try {
    const told = await ask("v1/rating/undo", { token, judgement: lastId });
    lastId = null;
    trouble(null);
    render(told.next);
    say("The last judgement is taken back. Judge this item again.");
  } catch (error) {
    trouble(error.message);
  }
}

async function refresh() {
  try {
    render(await ask("v1/rating/next", { token }));
    trouble(null);
  } catch (error) {
    if (error.status === 401) {
      localStorage.removeItem(TOKEN);
      token = null;
      show("join");
    } else {
      retry = setTimeout(refresh, 2000);
    }
    trouble(error.message);
  }
}

async function join(event) {
  event.preventDefault();
  const given = new FormData(byId("join"));
  try {
    const told = await ask("v1/rating/join", { name: given.get("name"), kind: given.get("kind") });
    token = told.token;
    localStorage.setItem(TOKEN, token);
    trouble(null);
    await refresh();
  } catch (error) {
    trouble(error.message);
  }
}

function pressed(event) {
  if (byId("work").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("textarea, button, summary, input:not([type=radio])")) return;
  if (event.key === "Enter") {
    event.preventDefault();
    save();
  } else if (event.key.toLowerCase() === "u" && !byId("undo").disabled) {
    undo();
  } else if (/^[1-5]$/.test(event.key)) {
    const sets = [...byId("judgement").querySelectorAll("fieldset")];
    const set = sets.find((one) => !one.querySelector(":checked")) ?? sets.at(-1);
    const input = set.querySelectorAll("input")[Number(event.key) - 1];
    if (input) {
      input.checked = true;
      input.focus();
    }
  }
}

async function begin() {
  byId("join").addEventListener("submit", join);
  byId("work").addEventListener("submit", (event) => { event.preventDefault(); save(); });
  byId("undo").addEventListener("click", undo);
  byId("undo-end").addEventListener("click", undo);
  byId("again").addEventListener("click", () => (localStorage.getItem(PENDING) ? send(0) : refresh()));
  document.addEventListener("keydown", pressed);
  const study = await ask("v1/rating/study").catch((error) => { trouble(error.message); return null; });
  if (!study) return;
  document.title = study.title;
  byId("title").textContent = study.title;
  scales = study.scales;
  guide();
  const invited = new URLSearchParams(location.hash.slice(1)).get("invitation");
  token = invited ?? localStorage.getItem(TOKEN);
  if (invited) {
    localStorage.setItem(TOKEN, invited);
    history.replaceState(null, "", location.pathname);
  }
  if (token && localStorage.getItem(PENDING)) {
    byId("save").disabled = true;
    await send(0);
    return;
  }
  if (token) await refresh();
  else if (study.open) { show("join"); byId("name").focus(); }
  else trouble("This study is by invitation: open the link that you were sent.");
}

begin();
