// Sphinx's search page calls Search.init before this script, which then answers in its place: sections, not pages.
(() => {
  const query = Search._queued_query;
  if (!query) return;
  const stemmer = new Stemmer(), said = splitQuery(query.toLowerCase());
  const wanted = said.filter((word) => !stopwords.includes(word));
  const starts = (wanted.length ? wanted : said).map((word) =>
    new RegExp(`(?<![\\p{L}\\p{N}])${RegExp.escape?.(stemmer.stemWord(word)) ?? _escapeRegExp(stemmer.stemWord(word))}[\\p{L}\\p{N}_]*`, "giu"));
  const count = (text, start) => (text.match(start) || []).length;
  const worth = ({ page, title, text }) => starts.map((start) =>
    10 * count(title, start) + 2 * count(page, start) + Math.min(5, count(text, start)));
  const found = sections
    .map(([page, title, href, text]) => ({ page, title, href, text }))
    .map((section) => ({ ...section, worth: worth(section) }))
    .filter((section) => section.worth.every(Boolean))
    .map((section) => ({ ...section, worth: section.worth.reduce((a, b) => a + b) * (section.href.startsWith("book/api") ? 0.2 : 1) }))
    .sort((a, b) => b.worth - a.worth);
  const part = (name, text, parent) => {
    const element = parent.appendChild(document.createElement(name));
    element.textContent = text;
    return element;
  };
  for (const { page, title, href, text } of found.slice(0, 60)) {
    const item = part("li", "", Search.output);
    part("a", title, item).href = href;
    if (page != title) part("span", ` ${page}`, item).className = "search-page";
    const first = Math.min(...starts.map((start) => text.search(start)).filter((place) => place >= 0), text.length);
    const from = first < 100 || first == text.length ? 0 : text.indexOf(" ", first - 90) + 1;
    const shown = text.slice(from, from + 240).replace(/\s\S*$/, (last) => (from + 240 < text.length ? " …" : last));
    const excerpt = part("p", from ? "… " : "", item);
    excerpt.className = "context";
    const marked = new RegExp(starts.map((start) => start.source).join("|"), "giu");
    let done = 0;
    for (const hit of shown.matchAll(marked)) {
      excerpt.append(shown.slice(done, hit.index));
      part("mark", hit[0], excerpt);
      done = hit.index + hit[0].length;
    }
    excerpt.append(shown.slice(done));
  }
  Search.stopPulse();
  Search.title.textContent = "Search results";
  Search.status.textContent = found.length
    ? `${found.length} section${found.length > 1 ? "s" : ""} for “${query}”${found.length > 60 ? ", the first 60 of them:" : ""}`
    : `No section has “${query}”. Try fewer words, or a part of one.`;
})();
