"""The rendered pages, in order, as one PDF: ``make pdf``."""

import io
import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, NameObject

NAMES = ["chromium", "chromium-browser", "google-chrome"]


def answer(route, html: Path, site: str) -> None:
    """The file of this address; nothing from anywhere else."""
    url = route.request.url.split("?")[0].split("#")[0]
    if url.startswith(site) and (file := html / url.removeprefix(site)).is_file():
        route.fulfill(path=file)
    else:
        route.abort()


def printed(browser, html: Path, page: str):
    """Title, address and PDF of page after page, as Chromium prints them.

    They are asked for at the published address, where links out of the PDF lead, and answered
    from the folder, so that no network is needed.
    """
    address = re.search(r'rel="canonical" href="([^"]*)"', (html / page).read_text())[1]
    site = address.removesuffix(page)
    tab = browser.new_page(color_scheme="light")
    tab.route("**/*", lambda route: answer(route, html, site))
    while address:
        tab.goto(address, wait_until="networkidle")
        # Its settings are there at once, itself only when the script has run.
        tab.wait_for_function("() => !window.MathJax || window.MathJax.startup?.promise")
        tab.evaluate("window.MathJax?.startup.promise.then(() => {})")
        title = tab.title().rsplit(" — ", 1)[0]
        yield title, tab.url, tab.pdf(format="A4", print_background=True, tagged=True)
        following = tab.locator("link[rel=next]")
        address = following.count() and following.evaluate("link => link.href")
    tab.close()


def joined(browser, html: Path, first: str = "book/index.html") -> PdfWriter:
    """One document; what leads to another page of the book leads to it there."""
    book, starts = PdfWriter(), {}
    for title, address, pdf in printed(browser, html, first):
        part = PdfReader(io.BytesIO(pdf))
        for page in part.pages:
            for link in (annotation.get_object() for annotation in page.get("/Annots", [])):
                # Chapters share names of places, such as "exercises".
                if place := part.named_destinations.get(link.get("/Dest")):
                    link[NameObject("/Dest")] = place.dest_array
        starts[address] = len(book.pages)
        book.append(part, outline_item=title)
    for page in book.pages:
        for link in (annotation.get_object() for annotation in page.get("/Annots", [])):
            start = starts.get(str(link.get("/A", {}).get("/URI")).split("#")[0])
            if start is not None:
                place = ArrayObject([book.pages[start].indirect_reference, NameObject("/Fit")])
                link[NameObject("/A")] = DictionaryObject(
                    {NameObject("/S"): NameObject("/GoTo"), NameObject("/D"): place}
                )
    return book


if __name__ == "__main__":
    html, target = map(Path, sys.argv[1:])
    with sync_playwright() as playwright:
        chromium = next(filter(None, map(shutil.which, NAMES)), None)  # or Playwright's own
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        book = joined(browser, html)
    book.add_metadata({"/Title": "Cross-class features in adversarial training"})
    book.compress_identical_objects()
    book.write(target)
    print(target, len(book.pages), "pages")
