// `vegaEmbed` comes with the bundle. Without this script, or if it fails, the still picture stays.

// Moves a slider to its end, once, within some seconds. Where motion is not wanted, a step per press.
function playButton(slider) {
  const button = document.createElement("button"), still = matchMedia("(prefers-reduced-motion: reduce)");
  const steps = (slider.max - slider.min) / slider.step, pause = Math.min(500, Math.max(50, 6000 / steps));
  const last = Number(slider.min) + Math.floor(steps + 1e-6) * slider.step, isAtEnd = () => slider.value > last - slider.step / 2;
  let timer;
  const name = () => (button.textContent = timer ? "Pause" : still.matches ? "Step" : "Play");
  const stop = () => { timer = clearTimeout(timer); name(); };
  const move = () => {
    slider.value = isAtEnd() && !timer ? slider.min : Number(slider.value) + Number(slider.step);
    slider.dispatchEvent(new Event("input"));
    timer = still.matches || isAtEnd() ? undefined : setTimeout(move, pause);
    name();
  };
  Object.assign(button, { type: "button", className: "moving-play", onclick: () => (timer ? stop() : move()) });
  slider.addEventListener("input", (event) => event.isTrusted && stop()); // by the reader's own hand
  still.addEventListener("change", stop);
  name();
  return button;
}

// In the dark a heat map goes through the page's ground, its numbers are white, and pale colours are less bright.
function darken(part) {
  if (inTheDark[part.scheme])
    Object.assign(part, { range: inTheDark[part.scheme], interpolate: "rgb", scheme: undefined, reverse: undefined });
  if (part.value === "black") part.value = "white";
  for (const [name, inner] of Object.entries(part)) {
    if (pales[inner]) part[name] = pales[inner];
    else if (inner && typeof inner === "object") darken(inner);
  }
}

const isDark = () => document.documentElement.dataset.theme === "dark";

customElements.define("moving-figure", class extends HTMLElement {
  async connectedCallback() {
    const $ = (selector) => this.querySelector(selector);
    const [view, controls] = [$(".moving-view"), $(".moving-controls")], spec = JSON.parse($("script").textContent);
    if (spec.columns && view.clientWidth < 600) Object.assign(spec, { columns: 1, align: "none" }); // panels stack on a phone
    if ((this.drawnDark = isDark())) darken(spec);
    if (spec.width) spec.width = Math.min(spec.width, view.clientWidth - 70); // less axis and title
    controls.replaceChildren();
    const { view: chart } = await vegaEmbed(view, spec, { actions: false, renderer: "svg", bind: controls });
    for (const { name } of (spec.params ?? []).filter((p) => p.bind && this.chart)) chart.signal(name, this.chart.signal(name));
    this.chart = await chart.runAsync();
    // Told once the controls rest, so that a figure that plays tells its end alone.
    let timer;
    if (spec.params?.some(({ name }) => name === "says"))
      chart.addSignalListener("says", (_, sentence) => {
        clearTimeout(timer);
        timer = setTimeout(() => ($("[role=status]").textContent = sentence), 800);
      });
    for (const group of controls.querySelectorAll(".vega-bind-radio"))
      Object.assign(group, { role: "radiogroup", ariaLabel: group.parentElement.firstElementChild.textContent });
    const sliders = controls.querySelectorAll("[type=range]");
    if (sliders.length === 1) controls.prepend(playButton(sliders[0]));
    const caption = $("figcaption") ?? this.closest("figure").querySelector(".caption-text"); // the book's, with a number
    view.ariaLabel = caption.textContent; // short: the long text describes the figure
    this.classList.add("moving-on");
    view.classList.remove("moving-fits");
    const [drawn, room] = [view.querySelector("svg").clientWidth, view.clientWidth];
    view.classList.toggle("moving-fits", 0.85 * drawn < room && room < 1.3 * drawn); // a little smaller or larger fills the column
    if (view.scrollWidth > view.clientWidth) view.tabIndex = 0; // so that the keyboard scrolls it, too
  }
});

// Drawn anew where the page turns dark or light, with the controls where they were.
new MutationObserver(() => {
  for (const figure of document.querySelectorAll("moving-figure.moving-on")) if (figure.drawnDark !== isDark()) figure.connectedCallback();
}).observe(document.documentElement, { attributeFilter: ["data-theme"] });
