// The theme lights the section that was reached last, and keeps it so above the first one.
(() => {
const clear = () => {
  const links = [...document.querySelectorAll("#pst-page-toc-nav a[href^='#']")];
  const first = links.length && document.getElementById(links[0].getAttribute("href").slice(1));
  // The theme counts a heading as reached in the upper 30 % of the window.
  if (!first || first.getBoundingClientRect().top < 0.3 * innerHeight) return;
  for (const link of links) link.removeAttribute("aria-current");
  document.querySelectorAll("#pst-page-toc-nav .active").forEach((entry) => entry.classList.remove("active"));
};
addEventListener("scroll", clear, { passive: true });
addEventListener("scrollend", clear, { passive: true });
})();
