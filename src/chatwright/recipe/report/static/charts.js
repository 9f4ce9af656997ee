// Curves as SVG from plain data: hover, zoom, keyboard, legend, switch of axes. No library, no network.
// A figure: { y: title, axes: { key: title }, isTime, series: [{ name, colour, isMain, y: [], notes?, ends?, KEY: [] }] }.
// `ends` are those of each point's interval, or null where it has none.
// Text of names is set as text, never as markup.
(() => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const HEIGHT = 320, TOP = 12, RIGHT = 14, BOTTOM = 46, FONT = 13;
  const charts = new Map();

  const make = (name, attributes, ...children) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const html = (name, className, ...children) => {
    const node = document.createElement(name);
    if (className) node.className = className;
    node.append(...children);
    return node;
  };

  // Ticks at 1, 2 or 5 times a power of ten, about `wanted` of them.
  const ticksOf = (low, high, wanted) => {
    const span = high - low || Math.abs(high) || 1;
    const rough = span / Math.max(1, wanted), power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough * 0.999);
    const ticks = [];
    for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at += 1) ticks.push(at * step || 0);
    return { ticks, step };
  };
  const numbered = (value, step) => {
    const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-9)));
    return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  };
  const dated = (value) => new Date(value * 1000).toISOString().slice(0, 16).replace("T", " ");
  const exact = (value) => Math.abs(value) >= 1000 ? value.toLocaleString("en", { maximumFractionDigits: 1 })
    : String(Number(value.toPrecision(4)));
  const endsOf = (series, index) => (series.ends && series.ends[index]) || [];

  class Chart {
    constructor(place, figure) {
      this.place = place;
      this.hidden = new Set();
      this.zoom = null;
      this.cursor = null;
      this.axis = Object.keys(figure.axes)[0];
      this.legend = html("div", "legend");
      this.frame = html("div", "frame");
      this.tip = html("div", "tip");
      this.tip.hidden = true;
      this.tip.setAttribute("aria-live", "polite");
      this.whole = html("button", "whole", "whole range");
      this.whole.type = "button";
      this.whole.addEventListener("click", () => this.zoomTo(null));
      this.frame.append(this.tip, this.whole);
      place.replaceChildren(this.legend, this.frame);
      this.update(figure);
      new ResizeObserver(() => { if (place.clientWidth !== this.width) this.draw(); }).observe(place);
    }

    update(figure) {
      this.figure = figure;
      if (!(this.axis in figure.axes)) this.axis = Object.keys(figure.axes)[0];
      this.showLegend();
      this.draw();
    }

    showLegend() {
      if (this.figure.series.length < 2) return this.legend.replaceChildren();
      const names = this.figure.series.map((series) => series.name).join("\n");
      if (names === this.legendNames) return undefined;
      this.legendNames = names;
      const keys = this.figure.series.map((series) => {
        const mark = html("i", "");
        mark.style.background = series.colour;
        const button = html("button", "", mark, series.name);
        button.type = "button";
        button.setAttribute("aria-pressed", "true");
        button.addEventListener("click", () => {
          const isShown = this.hidden.delete(series.name) || !this.hidden.add(series.name);
          button.setAttribute("aria-pressed", String(isShown));
          this.draw();
        });
        return button;
      });
      return this.legend.replaceChildren(...keys);
    }

    zoomTo(range) {
      this.zoom = range;
      this.draw();
    }

    shown() {
      return this.figure.series.filter((series) => !this.hidden.has(series.name) && series.y.length);
    }

    // Lowest and highest of what is drawn.
    ranges() {
      const lines = this.shown();
      const all = lines.flatMap((series) => series[this.axis]);
      if (!all.length) return null;
      let [low, high] = this.zoom || [all.reduce((a, b) => Math.min(a, b)), all.reduce((a, b) => Math.max(a, b))];
      if (low === high) [low, high] = [low - 0.5, high + 0.5];
      const seen = [];
      for (const series of lines) {
        series[this.axis].forEach((x, index) => {
          if (x >= low && x <= high) seen.push(series.y[index], ...endsOf(series, index));
        });
      }
      const values = seen.length ? seen : lines.flatMap((series) => series.y);
      const bottom = values.reduce((a, b) => Math.min(a, b)), top = values.reduce((a, b) => Math.max(a, b));
      const room = 0.06 * (top - bottom) || 0.05 * Math.abs(top) || 0.5;
      return { x: [low, high], y: [bottom - room, top + room] };
    }

    draw() {
      const ranges = this.ranges();
      this.whole.hidden = !this.zoom;
      this.width = this.place.clientWidth || 640;
      if (this.svg) this.svg.remove();
      if (!ranges) return;
      const upright = ticksOf(...ranges.y, 5);
      const labels = upright.ticks.map((tick) => numbered(tick, upright.step));
      const left = 30 + 7.6 * Math.max(2, ...labels.map((label) => label.length));
      const width = this.width - left - RIGHT, height = HEIGHT - TOP - BOTTOM;
      this.toX = (x) => left + (x - ranges.x[0]) / (ranges.x[1] - ranges.x[0]) * width;
      this.fromX = (at) => ranges.x[0] + (at - left) / width * (ranges.x[1] - ranges.x[0]);
      this.toY = (y) => TOP + (1 - (y - ranges.y[0]) / (ranges.y[1] - ranges.y[0])) * height;
      this.range = ranges.x;
      this.svg = make("svg", { viewBox: `0 0 ${this.width} ${HEIGHT}`, width: "100%", tabindex: "0", role: "img",
        "aria-label": this.place.dataset.description || "", "font-size": FONT });
      this.svg.append(...this.axes(ranges, upright, labels, { left, width, height }), ...this.lines(left, width, height));
      this.mark = make("line", { class: "cursor", y1: TOP, y2: TOP + height, visibility: "hidden" });
      this.brush = make("rect", { class: "brush", y: TOP, height, width: 0 });
      this.svg.append(this.brush, this.mark);
      this.listen();
      this.frame.prepend(this.svg);
      if (this.cursor !== null) this.point(this.cursor);
    }

    axes(ranges, upright, labels, { left, width, height }) {
      const nodes = [], foot = TOP + height;
      upright.ticks.forEach((tick, index) => {
        const y = this.toY(tick);
        nodes.push(make("line", { class: "grid", x1: left, x2: left + width, y1: y, y2: y }),
          make("text", { class: "tick", x: left - 7, y: y + 4.5, "text-anchor": "end" }, labels[index]));
      });
      const across = ticksOf(...ranges.x, Math.max(2, width / (this.figure.isTime ? 150 : 90)));
      for (const tick of across.ticks) {
        const x = this.toX(tick), label = this.figure.isTime ? dated(tick) : numbered(tick, across.step);
        const half = 4 * label.length, middle = Math.max(half, Math.min(x, this.width - half));  // within the figure
        nodes.push(make("line", { class: "grid", x1: x, x2: x, y1: TOP, y2: foot }),
          make("text", { class: "tick", x: middle, y: foot + 18, "text-anchor": "middle" }, label));
      }
      nodes.push(make("text", { class: "title", x: left + width / 2, y: HEIGHT - 6, "text-anchor": "middle" },
        this.figure.axes[this.axis]),
      make("text", { class: "title", "text-anchor": "middle", transform: `translate(14 ${TOP + height / 2}) rotate(-90)` },
        this.figure.y));
      return nodes;
    }

    lines(left, width, height) {
      const key = `clip-${this.place.id || [...charts.keys()].indexOf(this.place)}`;
      const clip = make("clipPath", { id: key }, make("rect", { x: left, y: TOP - 4, width: width + 4, height: height + 8 }));
      const nodes = this.shown().map((series) => {
        const at = series[this.axis].map((x, index) => [this.toX(x), this.toY(series.y[index])]);
        const path = at.map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
        const line = make("path", { d: path, fill: "none", stroke: series.colour, "clip-path": `url(#${key})`,
          "stroke-width": series.isMain ? 2.8 : 1.7, "stroke-linejoin": "round", "data-name": series.name });
        const isSeen = ([x]) => x >= left - 1 && x <= left + width + 1;
        const sure = at.flatMap((place, index) => isSeen(place) ? this.interval(series, index, place[0]) : []);
        if (at.length > 30) return [line, ...sure];
        return [line, ...sure, ...at.filter(isSeen).map(([x, y]) =>
          make("circle", { cx: x, cy: y, r: series.isMain ? 3.2 : 2.5, fill: series.colour }))];
      });
      return [clip, ...nodes.flat()];
    }

    // A point's interval as a thin line through it, closed at both ends; nothing where it has none.
    interval(series, index, x) {
      const [low, high] = endsOf(series, index).map((end) => this.toY(end).toFixed(1)), left = (x - 3).toFixed(1);
      if (low === undefined) return [];
      return [make("path", { class: "interval", d: `M${left} ${low}h6m-3 0V${high}m-3 0h6`, fill: "none",
        stroke: series.colour, "stroke-width": 1.2 })];
    }

    listen() {
      const at = (event) => this.fromX((event.clientX - this.svg.getBoundingClientRect().left)
        * this.width / this.svg.getBoundingClientRect().width);
      let began = null;
      this.svg.addEventListener("pointerdown", (event) => {
        if (event.button) return;
        began = at(event);
        this.svg.setPointerCapture(event.pointerId);
      });
      this.svg.addEventListener("pointermove", (event) => {
        const now = at(event);
        if (began !== null) {
          const [from, to] = [this.toX(Math.min(began, now)), this.toX(Math.max(began, now))];
          this.brush.setAttribute("x", from);
          this.brush.setAttribute("width", to - from);
        }
        this.point(now);
      });
      this.svg.addEventListener("pointerup", (event) => {
        const from = began, to = at(event);
        began = null;
        if (from !== null && Math.abs(this.toX(from) - this.toX(to)) > 8) {
          const ends = [Math.min(from, to), Math.max(from, to)];
          this.zoomTo([Math.max(ends[0], this.range[0]), Math.min(ends[1], this.range[1])]);
        } else {
          this.brush.setAttribute("width", 0);
        }
      });
      this.svg.addEventListener("pointerleave", () => { if (began === null) this.point(null); });
      this.svg.addEventListener("blur", () => this.point(null));
      this.svg.addEventListener("dblclick", () => this.zoomTo(null));
      this.svg.addEventListener("keydown", (event) => this.key(event));
    }

    // Arrows walk along the points, plus and minus zoom around the place, 0 and Escape show all.
    key(event) {
      const main = this.shown().find((series) => series.isMain) || this.shown()[0];
      if (!main) return;
      const [low, high] = this.range, here = this.cursor === null ? low : this.cursor;
      const seen = main[this.axis].filter((x) => x >= low && x <= high);
      const acts = {
        ArrowRight: () => this.point(seen.find((x) => x > here + 1e-9) ?? seen.at(-1)),
        ArrowLeft: () => this.point(seen.findLast((x) => x < here - 1e-9) ?? seen[0]),
        Home: () => this.point(seen[0]),
        End: () => this.point(seen.at(-1)),
        "+": () => this.zoomTo([Math.max(low, here - (high - low) / 4), Math.min(high, here + (high - low) / 4)]),
        "-": () => this.zoomTo(null),
        0: () => this.zoomTo(null),
        Escape: () => { this.point(null); this.zoomTo(null); },
      };
      if (!(event.key in acts)) return;
      event.preventDefault();
      const hadFocus = document.activeElement === this.svg;
      acts[event.key]();
      if (hadFocus) this.svg.focus();
    }

    // What each curve has at the place nearest to `x`; null takes the note away.
    point(x) {
      this.cursor = x;
      const isIn = x !== null && x !== undefined && x >= this.range[0] - 1e-9 && x <= this.range[1] + 1e-9;
      this.tip.hidden = !isIn;
      this.mark.setAttribute("visibility", isIn ? "visible" : "hidden");
      if (!isIn) return;
      const rows = [];
      let nearest = null;
      for (const series of this.shown()) {
        const places = series[this.axis];
        let best = 0;
        places.forEach((place, index) => { if (Math.abs(place - x) < Math.abs(places[best] - x)) best = index; });
        if (nearest === null || Math.abs(places[best] - x) < Math.abs(nearest - x)) nearest = places[best];
        rows.push({ series, best });
      }
      if (nearest === null) return;
      this.mark.setAttribute("x1", this.toX(nearest));
      this.mark.setAttribute("x2", this.toX(nearest));
      const head = this.figure.isTime ? dated(nearest) : `${this.figure.axes[this.axis]} ${exact(nearest)}`;
      const entries = rows.map(({ series, best }) => {
        const mark = html("i", ""), told = series.notes ? ` (${series.notes[best]})` : "";
        const ends = endsOf(series, best).map(exact), sure = ends.length ? `, 95% interval ${ends.join(" to ")}` : "";
        mark.style.background = series.colour;
        return html("div", "", mark, `${rows.length > 1 ? `${series.name}: ` : ""}${exact(series.y[best])}${sure}${told}`);
      });
      this.tip.replaceChildren(html("b", "", head), ...entries);
      const place = this.toX(nearest) / this.width;
      this.tip.style.left = place < 0.5 ? `calc(${100 * place}% + 10px)` : "auto";
      this.tip.style.right = place < 0.5 ? "auto" : `calc(${100 * (1 - place)}% + 10px)`;
    }
  }

  const draw = (place, figure) => {
    const chart = charts.get(place);
    if (chart) chart.update(figure);
    else charts.set(place, new Chart(place, figure));
  };

  for (const place of document.querySelectorAll("[data-figure]")) {
    draw(place, JSON.parse(document.getElementById(`data-${place.dataset.figure}`).textContent));
  }
  for (const button of document.querySelectorAll("button[data-axis]")) {
    button.addEventListener("click", () => {
      const group = button.closest(".curves");
      for (const other of group.querySelectorAll("button[data-axis]")) {
        other.setAttribute("aria-pressed", String(other === button));
      }
      for (const [place, chart] of charts) {
        if (!group.contains(place) || !(button.dataset.axis in chart.figure.axes)) continue;
        chart.axis = button.dataset.axis;
        chart.cursor = null;
        chart.tip.hidden = true;
        chart.zoomTo(null);
      }
    });
  }
  // On paper nothing can be unfolded.
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details:not([open])")) { part.open = true; part.dataset.folded = ""; }
  });
  addEventListener("afterprint", () => {
    for (const part of document.querySelectorAll("details[data-folded]")) { part.open = false; delete part.dataset.folded; }
  });
  window.chatwrightCharts = { draw };
})();
