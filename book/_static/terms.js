// What a term means, which its link has as a title: in a box, while the mouse is on link or box, on focus by keyboard,
// and on touch. A first touch shows it, a second follows the link.
(() => {
const box = document.body.appendChild(document.createElement("div"));
Object.assign(box, { className: "term-says", popover: "auto", role: "tooltip" });
for (const link of document.querySelectorAll("a.term[title]")) {
  link.setAttribute("aria-description", link.title); // told as a title is, without the browser's own box
  link.removeAttribute("title");
}
const termAt = ({ target }) => target.closest?.("a.term[aria-description]");
let of, isTouch, isSecond, isUnder = null, waiting;
const show = (link) => {
  box.textContent = link.getAttribute("aria-description");
  box.togglePopover(true);
  const { left, top, bottom } = link.getBoundingClientRect(), { offsetWidth: width, offsetHeight: height } = box;
  const fits = bottom + height + 6 < innerHeight, most = document.documentElement.clientWidth - width - 8;
  box.style.left = `${scrollX + Math.max(8, Math.min(left, most))}px`;
  box.style.top = `${scrollY + (fits ? bottom + 6 : top - height - 6)}px`;
  of = link;
};
addEventListener("pointerover", (event) => {
  const now = event.pointerType === "mouse" ? (termAt(event) ?? event.target.closest?.(".term-says") ?? null) : null;
  if (now === isUnder) return;
  isUnder = now;
  clearTimeout(waiting);
  if (!now) waiting = setTimeout(() => of?.matches(":focus-visible") || box.hidePopover(), 250); // time to reach the box
  else if (now !== box) waiting = setTimeout(show, 150, now);
});
addEventListener("focusin", (event) => event.target.matches?.(":focus-visible") && termAt(event) && show(termAt(event)));
addEventListener("focusout", (event) => termAt(event) && box.hidePopover());
addEventListener("keydown", ({ key }) => {
  if (key !== "Escape") return;
  clearTimeout(waiting);
  box.hidePopover(); // also where the browser does not by itself
});
addEventListener("pointerdown", (event) => {
  isTouch = event.pointerType === "touch";
  isSecond = box.matches(":popover-open") && termAt(event) === of;
});
addEventListener("click", (event) => {
  const link = isTouch && !isSecond && termAt(event);
  if (!link) return;
  event.preventDefault();
  show(link);
});
})();
