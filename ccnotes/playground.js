// The Gaussian model of chapter 2 under the reader's hand. Part 1 is ccnotes.gaussian, as far as
// the figure needs it; part 2 moves the lines that playground.py has drawn.
(() => {
"use strict";
if (globalThis.gaussianPlayground) return; // two figures of one notebook

// --- 1. Gauss-Legendre quadrature: nodes are the roots of a Legendre polynomial, by Newton.
const NODES = Array.from({ length: 32 }, (_, i) => {
  let x = Math.cos((Math.PI * (i + 0.75)) / 32.5), slope;
  for (let round = 0; round < 100; round++) {
    let [before, p] = [1, x];
    for (let k = 2; k <= 32; k++) [before, p] = [p, ((2 * k - 1) * x * p - (k - 1) * before) / k];
    slope = (32 * (x * p - before)) / (x * x - 1);
    x -= p / slope;
  }
  return { x, weight: 2 / ((1 - x * x) * slope * slope) };
});
const integral = (f, to) => NODES.reduce((sum, { x, weight }) => sum + (to / 2) * weight * f((to / 2) * (1 + x)), 0);

const density = (x) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
const phi = (h) => 0.5 + integral(density, Math.min(h, 9)); // h >= 0 is all that is needed
const owensT = (h, a) => integral((x) => Math.exp((-h * h * (1 + x * x)) / 2) / (1 + x * x), a) / (2 * Math.PI);

// The radius from which the margin loss drops cross-class features (below 0: at every one), and w2 / w1.
const threshold = (mu, sigma, beta) => (mu - ((1 - beta) * sigma) / Math.sqrt(Math.PI)) / 2;
const chosenRatio = (mu, sigma, eps, beta) => Math.max(0, threshold(mu, sigma, beta) - eps) / (mu / 2 - eps);

function robustAccuracy(ratio, mu, sigma, eps, rivals) {
  const h = ((1 + ratio) * (mu - 2 * eps)) / (sigma * Math.hypot(1, ratio));
  return phi(h) - (rivals === "all" ? 2 * owensT(h, ratio / Math.sqrt(2 + ratio * ratio)) : 0);
}

function bestRatio(mu, sigma, eps) {
  const d = (mu - 2 * eps) / sigma;
  let [low, high] = [0, 1];
  for (let half = 0; half < 54; half++) {
    const t = (low + high) / 2, root = Math.sqrt((2 + t * t) / (1 + t * t)), u = (d * t * (1 + t)) / (root * (1 + t * t));
    if (d * (1 - t) * root > density(u) / phi(u)) low = t;
    else high = t;
  }
  return (low + high) / 2;
}

globalThis.gaussianPlayground = { threshold, chosenRatio, robustAccuracy, bestRatio };

// --- 2. The markup, with empty pictures, comes from playground.py.

const frame = () => new Promise(requestAnimationFrame);
const [LEFT, RIGHT, BOTTOM, TOP] = [48, 370, 286, 68]; // of a panel, in pixels of its picture
const RATIOS = Array.from({ length: 76 }, (_, i) => i / 50);

// A panel's ranges, names of its axes, and the key of its lines.
const PANELS = {
  accuracy: { x: [0, 1.5], y: [0.3, 1], ticks: [0, 0.5, 1, 1.5], rows: [0.4, 0.6, 0.8, 1], names: ["w₂ / w₁", "robust accuracy"], key: { both: "against both rivals (○ chosen, ◆ best)", one: "against one given rival" } },
  weights: { x: [0, 1], y: [0, 1], ticks: [0, 0.25, 0.5, 0.75, 1], rows: [0, 0.2, 0.4, 0.6, 0.8, 1], names: ["radius, as a share of μ/2", "weight, in units of μ/λ"], key: { w1: "w₁, class-specific", w2: "w₂, cross-class", plain: "w₂ without smoothing" } },
};
const SHAPES = { chosen: "M-7,0a7,7 0 1,0 14,0a7,7 0 1,0 -14,0", best: "M0,-7L7,0L0,7L-7,0Z" };

const drawn = (name, attributes, text = "") => {
  const part = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) part.setAttribute(key, value);
  part.textContent = text;
  return part;
};

class Panel {
  constructor(svg, { x, y, ticks, rows, names, key }) {
    Object.assign(this, { svg, x, y });
    const line = (kind, x1, y1, x2, y2) => svg.append(drawn("line", { class: `play-${kind}`, x1, y1, x2, y2 }));
    const text = (said, x, y, anchor, more) => svg.append(drawn("text", { x, y, "text-anchor": anchor, ...more }, said));
    for (const [at, [px]] of ticks.map((tick) => [tick, this.at(tick, y[0])])) {
      line("grid", px, BOTTOM, px, TOP);
      text(at, px, BOTTOM + 17, "middle");
    }
    for (const [at, [, py]] of rows.map((tick) => [tick, this.at(x[0], tick)])) {
      line("grid", LEFT, py, RIGHT, py);
      text(at, LEFT - 6, py + 4, "end");
    }
    text(names[0], (LEFT + RIGHT) / 2, BOTTOM + 38, "middle");
    text(names[1], -(BOTTOM + TOP) / 2, 12, "middle", { transform: "rotate(-90)" });
    Object.entries(key).forEach(([kind, said], row) => {
      const [px, py] = [LEFT, 12 + 19 * row];
      line(kind, px, py, px + 26, py);
      text(said, px + 32, py + 4, "start");
    });
  }

  at(x, y) {
    const share = (value, [from, to]) => (value - from) / (to - from);
    return [LEFT + share(x, this.x) * (RIGHT - LEFT), BOTTOM + share(y, this.y) * (TOP - BOTTOM)].map((at) => Number(at.toFixed(2)));
  }

  // The part of that name, new or as it was.
  part(name, tag, attributes) {
    const found = this.svg.querySelector(`[data-part="${name}"]`) ?? this.svg.appendChild(drawn(tag, { "data-part": name }));
    for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  }

  line(kind, points) {
    this.part(kind, "polyline", { class: `play-${kind}`, points: points.map((point) => this.at(...point).join()).join(" ") });
  }

  // A dotted line upwards, with its name at the top, on the side with more room; none where it would stand at the left end.
  note(name, x, said) {
    const [px, py] = this.at(x, 1), left = x > 0.6, visibility = x > 0 ? "visible" : "hidden";
    this.line(name, [[x, 0], [x, 1]]);
    this.part(name, "polyline", { visibility });
    this.part(`${name}-name`, "text", { x: px + (left ? -6 : 6), y: py + 14, "text-anchor": left ? "end" : "start", visibility });
    this.svg.querySelector(`[data-part="${name}-name"]`).textContent = said;
  }

  mark(kind, shape, x, y) {
    this.part(`mark-${kind}`, "path", { class: `play-mark-${kind}`, d: SHAPES[shape], transform: `translate(${this.at(x, y)})` });
  }
}

customElements.define("gaussian-playground", class extends HTMLElement {
  async connectedCallback() {
    // A parser makes the element before its content: wait until it has gone past it.
    while (document.readyState === "loading" && !this.nextSibling) await frame();
    if (this.form) return; // moved within the page
    this.form = this.querySelector("form");
    for (const name of Object.keys(PANELS)) this[name] = new Panel(this.querySelector(`svg.play-${name}`), PANELS[name]);
    this.form.addEventListener("input", () => this.update());
    this.form.addEventListener("submit", (event) => event.preventDefault()); // Enter would reload the page
    this.form.firstElementChild.disabled = false;
    this.update();
  }

  update() {
    const [mu, sigma, share, beta] = ["mu", "sigma", "share", "smoothing"].map((name) => Number(this.form.elements[name].value));
    const eps = (share * mu) / 2, accuracy = (ratio, rivals = "all") => robustAccuracy(ratio, mu, sigma, eps, rivals);
    const chosen = chosenRatio(mu, sigma, eps, beta), best = bestRatio(mu, sigma, eps), ends = [threshold(mu, sigma, 0), threshold(mu, sigma, beta)];
    const [plain, smoothed] = ends.map((end) => Math.max(0, end / (mu / 2)));
    this.accuracy.line("one", RATIOS.map((ratio) => [ratio, accuracy(ratio, "one")]));
    this.accuracy.line("both", RATIOS.map((ratio) => [ratio, accuracy(ratio)]));
    this.accuracy.mark("best", "best", best, accuracy(best));
    this.accuracy.mark("chosen", "chosen", chosen, accuracy(chosen));
    this.weights.line("radius", [[share, 0], [share, 1]]);
    this.weights.line("w1", [[0, 1], [1, 0]]);
    this.weights.line("plain", [[0, plain], [plain, 0], [1, 0]]);
    this.weights.line("w2", [[0, smoothed], [smoothed, 0], [1, 0]]);
    this.weights.note("threshold", smoothed, `${beta ? "ε₁" : "ε₀"} = ${ends[1].toFixed(3)}`);
    this.weights.mark("w1", "chosen", share, 1 - share);
    this.weights.mark("w2", "chosen", share, Math.max(0, smoothed - share));
    const radii = { threshold: ends[0], smoothed: ends[1] }, told = { chosen, best, accuracy: accuracy(chosen), top: accuracy(best) };
    for (const [name, value] of Object.entries({ mu, sigma, smoothing: beta })) this.say(name, value, value.toFixed(2));
    for (const [name, value] of Object.entries({ share: eps, ...told })) this.say(name, value, value.toFixed(3));
    for (const [name, value] of Object.entries(radii)) this.say(name, value, value > 0 ? value.toFixed(3) : "none");
    this.form.elements.share.ariaValueText = `${eps.toFixed(3)}, ${Math.round(100 * share)} % of half the mean`;
    const said = `Cross-class features ${chosen > 0 ? "kept" : "dropped"}: w₂ / w₁ = ${chosen.toFixed(2)}; best, ${best.toFixed(2)}.`;
    this.querySelector(".play-verdict").textContent = said;
    clearTimeout(this.rest); // spoken, so only once the reader rests
    this.rest = setTimeout(() => (this.querySelector(".play-says").textContent = said), 400);
  }

  // In full for those who ask the page, rounded for readers.
  say(name, value, textContent) {
    Object.assign(this.querySelector(`data[data-name="${name}"]`), { value, textContent });
  }
});
})();
