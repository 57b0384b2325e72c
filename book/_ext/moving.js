// `vegaEmbed` comes with the bundle. Without this script, or if it fails, the still picture stays.
customElements.define("moving-figure", class extends HTMLElement {
  async connectedCallback() {
    const $ = (selector) => this.querySelector(selector);
    const [view, controls] = [$(".moving-view"), $(".moving-controls")], spec = JSON.parse($("script").textContent);
    if (spec.columns && view.clientWidth < 600) Object.assign(spec, { columns: 1, align: "none" }); // panels stack on a phone
    if (spec.width) spec.width = Math.min(spec.width, view.clientWidth - 70); // less axis and title
    controls.replaceChildren();
    await vegaEmbed(view, spec, { actions: false, renderer: "svg", bind: controls });
    for (const group of controls.querySelectorAll(".vega-bind-radio"))
      Object.assign(group, { role: "radiogroup", ariaLabel: group.parentElement.firstElementChild.textContent });
    this.classList.add("moving-on");
    if (view.scrollWidth > view.clientWidth) view.tabIndex = 0; // so that the keyboard scrolls it, too
  }
});
