// Lights the section that is being read. The theme lights a heading only as it passes through the
// upper 30 % of the window, so that after a jump, or a fast scroll, an old one stays lit.
(() => {
const light = () => {
  const links = [...document.querySelectorAll("#pst-page-toc-nav a[href^='#']")];
  const top = (link) => {
    const place = document.getElementById(link.hash.slice(1));
    return place?.checkVisibility() ? place.getBoundingClientRect().top : Infinity;
  };
  const atEnd = scrollY + innerHeight >= document.documentElement.scrollHeight - 2; // the last ones never come up
  const reached = links.filter((link) => top(link) < (atEnd ? 1 : 0.3) * innerHeight);
  const asked = atEnd && reached.find((link) => link.hash === location.hash && top(link) >= 0);
  const now = asked || reached.at(-1);
  for (const link of links) {
    link.classList.toggle("active", link === now);
    if (link === now) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  for (const entry of document.querySelectorAll("#pst-page-toc-nav .toc-entry"))
    entry.classList.toggle("active", entry.contains(now ?? null));
};
let waiting;
const soon = () => { clearTimeout(waiting); waiting = setTimeout(light, 50); }; // after the theme's own
for (const event of ["scroll", "scrollend", "hashchange", "load"]) addEventListener(event, soon, { passive: true });
})();
