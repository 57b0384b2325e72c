// What a term means, which its link has as a title for the mouse: on focus by keyboard and on touch, too.
// A first touch shows it, a second follows the link.
(() => {
const box = document.body.appendChild(document.createElement("div"));
Object.assign(box, { className: "term-says", popover: "auto", role: "tooltip" });
const termAt = ({ target }) => target.closest?.("a.term[title]");
let of, isTouch, isSecond;
const show = (link) => {
  box.textContent = link.title;
  box.showPopover();
  const { left, top, bottom } = link.getBoundingClientRect(), { offsetWidth: width, offsetHeight: height } = box;
  const fits = bottom + height + 6 < innerHeight, most = document.documentElement.clientWidth - width - 8;
  box.style.left = `${scrollX + Math.max(8, Math.min(left, most))}px`;
  box.style.top = `${scrollY + (fits ? bottom + 6 : top - height - 6)}px`;
  of = link;
};
addEventListener("focusin", (event) => event.target.matches?.(":focus-visible") && termAt(event) && show(termAt(event)));
addEventListener("focusout", (event) => termAt(event) && box.hidePopover());
addEventListener("keydown", (event) => event.key === "Escape" && box.hidePopover()); // also where the browser does not by itself
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
