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

// What ccnotes.frames stored: a bit for each channel of a block of pixels, which moves by eps.
function leafed(x, signs, eps) {
  const up = bytes(signs), small = Math.sqrt(up.length * 8 / 3), size = Math.sqrt(x.length / 3), block = size / small;
  return x.map((value, i) => {
    const pixel = Math.floor(i / 3), row = Math.floor(pixel / size / block), column = Math.floor((pixel % size) / block);
    const bit = 3 * (row * small + column) + (i % 3);
    return clip(value + ((up[bit >> 3] >> (7 - (bit & 7))) & 1 ? eps : -eps), 0, 1);
  });
}

globalThis.liveAttack = { data: {}, unpack, forward, gradient, pgd, leafed };

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
    this.slider = this.form.elements.at;
    this.overSteps = this.form.dataset.over === "steps";
    const { classes, size, pixels, labels, photographs, networks, ...rest } = await this.load();
    const length = 3 * size ** 2, all = Float32Array.from(bytes(pixels), (value) => value / 255);
    Object.assign(this, rest, { networks: networks.map(unpack), known: new Map() });
    const [max, step] = this.overSteps ? [this.steps, 1] : [this.largest, this.stop];
    this.images = await Promise.all(photographs.map(async ({ picture, ...of }) => ({ ...of, max: this.most, step: 1, x: await pixelsOf(picture) })));
    labels.forEach((label, i) => this.images.push({ label, names: classes, max, step, x: all.subarray(i * length, (i + 1) * length) }));
    this.querySelectorAll(".live-images canvas").forEach((canvas, i) => paint(canvas, this.images[i].x));
    this.querySelectorAll(".live-pictures img").forEach((picture) => picture.replaceWith(canvasLike(picture)));
    this.form.addEventListener("input", () => this.update());
    this.form.addEventListener("submit", (event) => event.preventDefault()); // Enter would reload the page
    this.querySelector("button")?.addEventListener("click", () => {
      this.slider.value = this.slider.value === this.slider.max ? 0 : Number(this.slider.value) + 1;
      this.update();
    });
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
    const { max, step } = this.images[this.form.elements.image.value];
    Object.assign(this.slider, { max, step }); // before its value is read, which they may change
    const chosen = Object.fromEntries([...new FormData(this.form)].map(([name, value]) => [name, Number(value)]));
    this.show(chosen, this.attacked(chosen));
    const note = this.querySelector(".live-note"), fooled = this.querySelector(".live-fooled");
    if (note) note.textContent = this.notes[chosen.image];
    this.dataset.ready = "";
    const now = (this.now = {}), wrong = this.querySelector(".live-verdict").dataset.right === "false";
    if (this.overSteps) await this.trace(chosen, now);
    const line = wrong ? await this.fooled(chosen) : "";
    if (now === this.now) fooled.textContent = line; // else the reader has gone on
  }

  // The image where the slider is, and the probabilities of its classes; of photographs as kept.
  attacked({ network, image, at }) {
    const { label, x, frames } = this.images[image], net = this.networks[network];
    if (frames) {
      const { signs, p } = frames[network];
      return { adv: at > 0 ? leafed(x, signs[at - 1], at / 255) : x, p: p[at] };
    }
    const adv = this.overSteps ? pgd(net, x, label, this.eps / 255, at) : pgd(net, x, label, at / 255, this.steps);
    return { adv, p: forward(net, adv).probabilities };
  }

  // The probabilities at a place of the slider, each computed once, one a frame.
  async probabilities(chosen) {
    const key = Object.values(chosen).join();
    if (!this.known.has(key)) {
      this.known.set(key, this.attacked(chosen).p);
      await frame();
    }
    return this.known.get(key);
  }

  // The first stop of the slider at which a network is wrong, or infinity.
  async firstWrong(network, image) {
    const { label, max, step } = this.images[image];
    for (let at = 0; at <= max; at += step)
      if (likeliest(await this.probabilities({ network, image, at })) !== label) return at;
    return Infinity;
  }

  async fooled({ network, image }) {
    const at = await this.firstWrong(network, image), told = `Fooled at ${this.where(at)}`;
    if (at === 0) return "Wrong without any change.";
    if (network > 0) return `${told}: it took ${at > await this.firstWrong(0, image) ? "more" : "no more"}.`;
    const next = this.querySelectorAll(".live-networks span")[1];
    return next ? `${told}. Now try the ${next.textContent} network.` : `${told}.`;
  }

  where(at) { return this.overSteps ? `step ${at}` : `${at}/255`; }

  // Over the steps, for each network: how likely the true class is, from its slider's start on.
  async trace({ network, image, at }, now) {
    const lines = [...this.querySelectorAll(".live-path polyline")], { label } = this.images[image];
    for (const [n, line] of lines.entries()) {
      const found = [];
      for (let step = 0; step <= this.steps; step++) found.push((await this.probabilities({ network: n, image, at: step }))[label]);
      if (now !== this.now) return;
      line.setAttribute("points", found.slice(0, at + 1).map((p, step) => `${step},${1 - p}`).join(" "));
      line.classList.toggle("live-chosen", n === network);
      if (n === network) line.parentNode.ariaLabel = `Probability of the true class after each step: ${found.slice(0, at + 1).map(percent).join(", ")}.`;
    }
  }

  show({ image: shown, at }, { adv, p }) {
    const { label, names, x } = this.images[shown], name = (y) => names[y];
    const said = likeliest(p), answer = `${name(said)} (${percent(p[said])})`, where = this.where(at);
    const limit = `${this.overSteps ? this.eps : at}/255`;
    const [image, change, attacked] = this.querySelectorAll(".live-pictures canvas");
    paint(image, x, `An image of ${name(label)}.`);
    paint(change, adv.map((value, i) => 0.5 + this.times * (value - x[i])), `The change of each pixel, at most ${limit}, ${this.times} times as strong.`);
    change.parentElement.toggleAttribute("data-none", at === 0);
    paint(attacked, adv, `The attacked image. The network says ${answer}.`);
    this.querySelectorAll(".live-bars li").forEach((bar, y) => {
      bar.className = `${y === label ? "live-true " : ""}${y === said ? "live-said" : ""}`;
      bar.style.setProperty("--p", p[y]);
      bar.firstElementChild.textContent = name(y);
      bar.querySelector(".live-number").textContent = percent(p[y]);
    });
    const verdict = this.querySelector(".live-verdict");
    verdict.textContent = answer;
    verdict.dataset.right = said === label;
    this.querySelector(".live-value").textContent = this.overSteps ? where : `ε = ${where}`;
    this.slider.ariaValueText = where;
    const button = this.querySelector("button");
    if (button) button.textContent = this.slider.value === this.slider.max ? "Start again" : "One step";
    // Spoken, so only once the reader rests.
    clearTimeout(this.rest);
    const says = `At ${where} the network says ${answer}: ${said === label ? "right" : `wrong, it is ${name(label)}`}.`;
    this.rest = setTimeout(() => (this.querySelector(".live-says").textContent = `${says} ${this.querySelector(".live-fooled").textContent}`), 400);
  }
});

async function pixelsOf(source) {
  const picture = new Image();
  picture.src = source;
  await picture.decode();
  const context = canvasLike(picture, picture.naturalWidth).getContext("2d");
  context.drawImage(picture, 0, 0);
  const { data } = context.getImageData(0, 0, picture.naturalWidth, picture.naturalHeight);
  return Float32Array.from({ length: data.length * 3 / 4 }, (_, i) => data[4 * Math.floor(i / 3) + (i % 3)] / 255);
}

// (Sizes from attributes: the image itself may not be decoded yet.)
function canvasLike(picture, side) {
  const canvas = document.createElement("canvas");
  for (const name of ["width", "height"]) canvas.setAttribute(name, side ?? picture.getAttribute(name));
  canvas.setAttribute("role", "img");
  return canvas;
}

function paint(canvas, pixels, text) {
  const side = Math.sqrt(pixels.length / 3), image = new ImageData(side, side);
  if (canvas.width !== side) Object.assign(canvas, { width: side, height: side });
  image.data.fill(255);
  pixels.forEach((value, i) => (image.data[4 * Math.floor(i / 3) + (i % 3)] = Math.round(255 * value)));
  canvas.getContext("2d").putImageData(image, 0, 0);
  if (text) canvas.ariaLabel = text;
}
})();
