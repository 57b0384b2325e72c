// `vegaEmbed` comes with the bundle. Without this script, or if it fails, the still picture stays.
customElements.define("moving-figure", class extends HTMLElement {
  async connectedCallback() {
    const $ = (selector) => this.querySelector(selector);
    const [view, controls] = [$(".moving-view"), $(".moving-controls")];
    controls.replaceChildren();
    await vegaEmbed(view, JSON.parse($("script").textContent), { actions: false, renderer: "svg", bind: controls });
    this.classList.add("moving-on");
    if (view.scrollWidth > view.clientWidth) view.tabIndex = 0; // so that the keyboard scrolls it, too
  }
});
