// Sphinx's search page calls Search.init before this script, which then answers in its place: sections, not pages.
(() => {
  const query = Search._queued_query;
  if (!query) return;
  const stemmer = new Stemmer(), said = splitQuery(query.toLowerCase());
  const telling = said.filter((word) => !stopwords.includes(word)), wanted = telling.length ? telling : said;
  const starts = wanted.map((word) =>
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
  if (found.length) return;
  // Words of the book in place of those that it has not: the fewest letters added, left out, changed or swapped.
  const edits = (a, b) => {
    let before = [], row = [...b, ""].map((_, j) => j);
    for (let i = 1; i <= a.length; i++) {
      const next = [i];
      for (let j = 1; j <= b.length; j++) {
        next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] != b[j - 1]));
        if (a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) next[j] = Math.min(next[j], before[j - 2] + 1);
      }
      [before, row] = [row, next];
    }
    return row[b.length];
  };
  const known = new Set(sections.flatMap(([, title, , text]) => `${title} ${text}`.toLowerCase().match(/\p{L}[\p{L}\p{N}]+/gu) || []));
  const nearest = (word) => {
    const near = [...known].map((one) => [edits(word, one), one]).sort(([a], [b]) => a - b)[0];
    return near[0] <= Math.ceil(word.length / 4) ? near[1] : word;
  };
  const meant = wanted.map((word, i) => (sections.some(([, title, , text]) => `${title} ${text}`.search(starts[i]) >= 0) ? word : nearest(word)));
  if (meant.join() == wanted.join()) return;
  Search.status.append(" Did you mean ");
  part("a", meant.join(" "), Search.status).href = `?q=${encodeURIComponent(meant.join(" "))}`;
  Search.status.append("?");
})();
