// A small network, attacked while the reader watches. Part 1 is the network, its gradient and the
// attack, in plain numbers; part 2 the figure around it. A classic script, since from file://
// browsers load neither modules nor data.
(() => {
"use strict";
if (globalThis.liveAttack) return; // two figures of one notebook

// --- 1. Maps are flat, place by place, channels last, with a border of zeros one place wide.
// Weights are ordered by row, column, input, output.

const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

// A weight is a number of 12 bits, two digits of base64, in units of its output's scale; 2047 is 0.
function unpacked({ whole, scale, bias, stride }) {
  const three = bytes(whole), outputs = bias.length; // two weights in three bytes
  const number = (i, at = 3 * (i >> 1)) => (i % 2 ? ((three[at + 1] & 15) << 8) | three[at + 2] : (three[at] << 4) | (three[at + 1] >> 4));
  const weight = Float32Array.from({ length: whole.length / 2 }, (_, i) => (number(i) - 2047) * scale[i % outputs]);
  return { stride, bias, outputs, weight };
}

function unpack({ mean, layers, head }) {
  const net = { mean, layers: layers.map(unpacked), head: unpacked(head) };
  net.layers.forEach((layer, i) => (layer.inputs = i ? net.layers[i - 1].outputs : mean.length));
  return net;
}

// Each place of the output, with each row of the filter: where the output, the maps under the
// row and the row's weights begin. What lies under a row are 3 * inputs neighbours.
function sweep({ inputs, outputs, stride }, size, visit) {
  const side = Math.ceil(size / stride);
  for (let r = 0; r < side; r++) for (let c = 0; c < side; c++) for (let y = 0; y < 3; y++)
    visit(((r + 1) * (side + 2) + c + 1) * outputs, ((r * stride + y) * (size + 2) + c * stride) * inputs, 3 * y * inputs * outputs);
}

// Both ways skip zeros: forward they add nothing, backward no gradient passes a ReLU that is off.
function convolved(layer, maps, size) {
  const { inputs, outputs, weight, bias } = layer;
  const out = new Float32Array((Math.ceil(size / layer.stride) + 2) ** 2 * outputs);
  sweep(layer, size, (o, from, w) => {
    if (w === 0) out.set(bias, o);
    for (let k = 0; k < 3 * inputs; k++, w += outputs) {
      const value = maps[from + k];
      if (value !== 0) for (let j = 0; j < outputs; j++) out[o + j] += value * weight[w + j];
    }
  });
  return out.map((value) => Math.max(value, 0));
}

function convolvedBack(layer, grad, maps, size, afterReLU) {
  const { inputs, outputs, weight } = layer, back = new Float32Array(maps.length);
  sweep(layer, size, (o, to, w) => {
    for (let k = 0; k < 3 * inputs; k++, w += outputs) {
      if (afterReLU && maps[to + k] === 0) continue;
      let sum = 0;
      for (let j = 0; j < outputs; j++) sum += grad[o + j] * weight[w + j];
      back[to + k] += sum;
    }
  });
  return back;
}

// Pixels in [0, 1], row by row, channels last, and where each stands within the border.
function eachPixel(size, channels, visit) {
  for (let i = 0, r = 1; r <= size; r++) for (let c = 1; c <= size; c++) for (let k = 0; k < channels; k++, i++)
    visit(i, (r * (size + 2) + c) * channels + k, k);
}

function forward({ mean, layers, head }, x) {
  const sizes = [Math.sqrt(x.length / mean.length)], maps = [new Float32Array((sizes[0] + 2) ** 2 * mean.length)];
  eachPixel(sizes[0], mean.length, (i, at, k) => (maps[0][at] = x[i] - mean[k]));
  for (const layer of layers) {
    maps.push(convolved(layer, maps.at(-1), sizes.at(-1)));
    sizes.push(Math.ceil(sizes.at(-1) / layer.stride));
  }
  const features = new Float64Array(head.weight.length / head.outputs), logits = [...head.bias];
  maps.at(-1).forEach((value, i) => (features[i % features.length] += value / sizes.at(-1) ** 2));
  features.forEach((g, k) => logits.forEach((_, y) => (logits[y] += g * head.weight[k * head.outputs + y])));
  const highest = Math.max(...logits), powers = logits.map((l) => Math.exp(l - highest));
  const total = powers.reduce((sum, power) => sum + power);
  return { maps, sizes, logits, probabilities: powers.map((power) => power / total) };
}

// Of the cross-entropy with respect to x.
function gradient(net, x, y) {
  const { layers, head, mean } = net, { maps, sizes, probabilities } = forward(net, x);
  const ofLogits = probabilities.map((p, j) => p - (j === y)), count = head.weight.length / head.outputs;
  const ofFeatures = Float64Array.from({ length: count }, (_, k) => ofLogits.reduce((sum, d, j) => sum + d * head.weight[k * head.outputs + j], 0));
  let grad = maps.at(-1).map((value, i) => (value > 0 ? ofFeatures[i % count] / sizes.at(-1) ** 2 : 0));
  for (let l = layers.length - 1; l >= 0; l--) grad = convolvedBack(layers[l], grad, maps[l], sizes[l], l > 0);
  const ofPixels = new Float32Array(x.length);
  eachPixel(sizes[0], mean.length, (i, at) => (ofPixels[i] = grad[at]));
  return ofPixels;
}

const clip = (value, low, high) => Math.min(Math.max(value, low), high);

// ccnotes.attacks.pgd in the l-inf ball, from the image itself, by steps of a quarter of eps.
function pgd(net, x, y, eps, steps) {
  let adv = x;
  for (let step = 0; eps > 0 && step < steps; step++) {
    const grad = gradient(net, adv, y);
    adv = adv.map((pixel, i) => clip(x[i] + clip(pixel + (eps / 4) * Math.sign(grad[i]) - x[i], -eps, eps), 0, 1));
  }
  return adv;
}

globalThis.liveAttack = { data: {}, unpack, forward, gradient, pgd };

// --- 2. The markup, in its first state, comes from live.py. Nothing is added that takes room, so
// nothing on the page moves.

const frame = () => new Promise(requestAnimationFrame);
const likeliest = (p) => p.indexOf(Math.max(...p));
const percent = (p) => `${Math.round(100 * p)} %`;

customElements.define("live-attack", class extends HTMLElement {
  async connectedCallback() {
    // A parser makes the element before its content: wait until it has gone past it.
    while (document.readyState === "loading" && !this.nextSibling) await frame();
    if (this.form) return; // moved within the page
    this.form = this.querySelector("form");
    const data = await this.load(), length = 3 * data.size ** 2;
    const pixels = Float32Array.from(bytes(data.pixels), (value) => value / 255);
    this.images = data.labels.map((label, i) => ({ label, x: pixels.subarray(i * length, (i + 1) * length) }));
    Object.assign(this, { names: data.classes, steps: data.steps, stop: data.stop, times: data.times, notes: data.notes, networks: data.networks.map(unpack), first: new Map() });
    this.querySelectorAll(".live-images canvas").forEach((canvas, i) => paint(canvas, this.images[i].x));
    this.querySelectorAll(".live-pictures img").forEach((picture) => picture.replaceWith(canvasLike(picture)));
    this.form.addEventListener("input", () => this.update());
    this.form.addEventListener("submit", (event) => event.preventDefault()); // Enter would reload the page
    this.form.firstElementChild.disabled = false;
    this.update();
  }

  // The data stand in the page, or in a file of their own.
  async load() {
    const { textContent, dataset } = this.querySelector(".live-data");
    if (!dataset.src) return JSON.parse(textContent);
    const script = document.createElement("script");
    await new Promise((resolve, reject) => {
      Object.assign(script, { src: dataset.src, onload: resolve, onerror: reject });
      document.head.append(script);
    });
    return liveAttack.data[dataset.name];
  }

  // However many inputs come before the next frame, it is drawn once.
  async update() {
    if (this.waiting) return;
    this.waiting = true;
    await frame();
    this.waiting = false;
    const chosen = Object.fromEntries(new FormData(this.form)), { label, x } = this.images[chosen.image];
    const net = this.networks[chosen.network], adv = pgd(net, x, label, chosen.eps / 255, this.steps);
    this.show(label, x, adv, forward(net, adv).probabilities, `${Number(chosen.eps)}/255`);
    const note = this.querySelector(".live-note"), fooled = this.querySelector(".live-fooled");
    if (note) note.textContent = this.notes[chosen.image];
    this.dataset.ready = "";
    const now = (this.now = {}), wrong = this.querySelector(".live-verdict").dataset.right === "false";
    const line = wrong ? await this.fooled(chosen) : "";
    if (now === this.now) fooled.textContent = line; // else the reader has gone on
  }

  // The first stop of the slider at which a network is wrong, or infinity; a stop a frame.
  async firstWrong(network, image) {
    const key = `${network} ${image}`, { label, x } = this.images[image], net = this.networks[network];
    for (let eps = 0; !this.first.has(key); eps += this.stop) {
      const beyond = eps > this.form.elements.eps.max;
      if (beyond || likeliest(forward(net, pgd(net, x, label, eps / 255, this.steps)).probabilities) !== label) this.first.set(key, beyond ? Infinity : eps);
      await frame();
    }
    return this.first.get(key);
  }

  async fooled({ network, image }) {
    const at = await this.firstWrong(network, image), told = `Fooled at ${at}/255`;
    if (at === 0) return "Wrong without any change.";
    if (network > 0) return `${told}: it took ${at > await this.firstWrong(0, image) ? "more" : "no more"}.`;
    const next = this.querySelectorAll(".live-networks span")[1];
    return next ? `${told}. Now try the ${next.textContent} network.` : `${told}.`;
  }

  show(label, x, adv, p, eps) {
    const name = (y) => this.names[y], said = likeliest(p), answer = `${name(said)} (${percent(p[said])})`;
    const [image, change, attacked] = this.querySelectorAll(".live-pictures canvas");
    paint(image, x, `An image of ${name(label)}.`);
    paint(change, adv.map((value, i) => 0.5 + this.times * (value - x[i])), `The change of each pixel, at most ${eps}, ${this.times} times as strong.`);
    paint(attacked, adv, `The attacked image. The network says ${answer}.`);
    this.querySelectorAll(".live-bars li").forEach((bar, y) => {
      bar.className = `${y === label ? "live-true " : ""}${y === said ? "live-said" : ""}`;
      bar.style.setProperty("--p", p[y]);
      bar.querySelector(".live-number").textContent = percent(p[y]);
    });
    const verdict = this.querySelector(".live-verdict");
    verdict.textContent = answer;
    verdict.dataset.right = said === label;
    this.querySelector(".live-radius").textContent = `ε = ${eps}`;
    this.form.elements.eps.ariaValueText = eps;
    // Spoken, so only once the reader rests.
    clearTimeout(this.rest);
    const says = `At ${eps} the network says ${answer}: ${said === label ? "right" : `wrong, it is ${name(label)}`}.`;
    this.rest = setTimeout(() => (this.querySelector(".live-says").textContent = `${says} ${this.querySelector(".live-fooled").textContent}`), 400);
  }
});

// (Sizes from attributes: the image itself may not be decoded yet.)
function canvasLike(picture) {
  const canvas = document.createElement("canvas");
  for (const name of ["width", "height"]) canvas.setAttribute(name, picture.getAttribute(name));
  canvas.setAttribute("role", "img");
  return canvas;
}

function paint(canvas, pixels, text) {
  const { width, height } = canvas, image = new ImageData(width, height);
  image.data.fill(255);
  pixels.forEach((value, i) => (image.data[4 * Math.floor(i / 3) + (i % 3)] = Math.round(255 * value)));
  canvas.getContext("2d").putImageData(image, 0, 0);
  if (text) canvas.ariaLabel = text;
}
})();
