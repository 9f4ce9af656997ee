// Asks the server how the training goes and shows it, every two seconds while the run goes on and the page is seen.
(() => {
  "use strict";
  const EVERY_MS = 2000;
  const place = (id) => document.getElementById(id);
  const gigabytes = (bytes) => `${(bytes / 1e9).toFixed(1)} GB`;

  const cardsOf = (told) => [
    ["Step", told.step.toLocaleString("en"), told.steps ? `of ${told.steps.toLocaleString("en")}` : "how many there will be is known at the end"],
    ["Time", told.time, told.left ? `${told.left} left` : ""],
    ["Rate", told.rate ? (told.rate < 10 ? told.rate.toFixed(1) : Math.round(told.rate).toLocaleString("en")) : "\u2013",
      `${told.unit} a second${told.utilisation === null ? "" : `, ${Math.round(100 * told.utilisation)}% of the machine`}`],
    ["Processor", told.processor_share === null ? "\u2013" : `${Math.round(100 * told.processor_share)}%`,
      told.memory_bytes ? `memory: ${gigabytes(told.memory_used_bytes)} of ${gigabytes(told.memory_bytes)}` : ""],
  ].concat(told.skipped ? [["Left out", String(told.skipped), `steps, as unsound${told.skipped_why ? `; the last: ${told.skipped_why}` : ""}`]] : []);

  const card = ([label, value, meaning]) => {
    const item = document.createElement("li");
    item.className = "card";
    for (const [tag, text] of [["span", label], ["strong", value], ["small", meaning]]) {
      item.append(Object.assign(document.createElement(tag), { textContent: text }));
    }
    return item;
  };

  const show = (told) => {
    place("title").textContent = `${told.run}: ${told.stage}`;
    place("state").textContent = told.state;
    const bar = place("progress");
    if (told.steps) bar.value = told.step / told.steps;
    else bar.removeAttribute("value");
    place("cards").replaceChildren(...cardsOf(told).map(card));
    for (const [name, figure] of Object.entries(told.figures)) {
      if (name !== "heldout") place(name).dataset.description = `${name === "loss" ? "Training loss" : "Rate"}: ${figure.y}`;
      window.chatwrightCharts.draw(place(name), figure);
    }
  };

  const again = async () => {
    let isLeft = false;
    if (!document.hidden) {
      try {
        const answer = await fetch("api/progress", { cache: "no-store" });
        const told = await answer.json();
        if (answer.ok) {
          show(told);
          isLeft = !told.held;
        } else {
          place("state").textContent = told.problem || "the server cannot tell at the moment";
        }
      } catch {
        place("state").textContent = "the watching has ended; what is shown is what was seen last";
      }
    }
    setTimeout(again, isLeft ? 10 * EVERY_MS : EVERY_MS);
  };
  again();
})();
