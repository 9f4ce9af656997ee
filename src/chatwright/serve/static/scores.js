// The tokens of an answer, each with how likely it was and what else could have stood there.

const percent = (logprob) => {
  const share = 100 * Math.exp(logprob);
  return share >= 99.95 ? "100 %" : share >= 0.1 ? `${share.toFixed(1)} %` : "< 0.1 %";
};
const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "(nothing)";

/** The panel for these tokens: arrow keys go from one to the next. */
export function scoresPanel(tokens, { close }) {
  const panel = document.getElementById("probabilities").content.firstElementChild.cloneNode(true);
  const line = panel.querySelector(".tokens");
  const list = panel.querySelector(".alternatives");
  const buttons = tokens.map((token) => tokenButton(token));
  line.append(...buttons);
  const show = (index) => {
    buttons.forEach((button, place) => {
      button.tabIndex = place === index ? 0 : -1;
      button.setAttribute("aria-pressed", String(place === index));
    });
    list.replaceChildren(...alternatives(tokens[index]));
  };
  line.addEventListener("click", (event) => {
    const index = buttons.indexOf(event.target.closest("button"));
    if (index >= 0) show(index);
  });
  line.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 }[event.key];
    const index = buttons.indexOf(document.activeElement);
    if (!step || index < 0) return;
    event.preventDefault();
    const next = Math.min(buttons.length - 1, Math.max(0, index + step));
    show(next);
    buttons[next].focus();
  });
  panel.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    close();
  });
  panel.querySelector(".close").addEventListener("click", close);
  if (tokens.length) show(0);
  const mean = tokens.reduce((sum, token) => sum + token.logprob, 0) / Math.max(1, tokens.length);
  panel.querySelector(".mean").textContent = tokens.length
    ? `${tokens.length} tokens, on average ${percent(mean)} likely; the paler a token, the likelier.` : "No tokens.";
  return panel;
}

function tokenButton(token) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = visible(token.token);
  button.className = `level-${Math.min(4, Math.floor(-token.logprob / 0.8))}`;
  button.title = percent(token.logprob);
  button.ariaLabel = `${visible(token.token)}, ${percent(token.logprob)}`;
  if (token.token.includes("\n")) button.classList.add("breaks");
  return button;
}

function alternatives(token) {
  return token.top_logprobs.map((likely) => {
    const item = document.createElement("li");
    const name = document.createElement("code");
    name.textContent = visible(likely.token);
    const share = document.createElement("span");
    share.textContent = percent(likely.logprob);
    const bar = document.createElement("meter");
    bar.value = Math.exp(likely.logprob);
    bar.ariaHidden = "true";
    item.append(name, bar, share);
    if (likely.token === token.token) item.className = "taken";
    return item;
  });
}
