"""The public repository's address, set in every file that names it: ``make address URL=...``."""

import re
import sys
from pathlib import Path

FILES = "*.md *.cff *.toml *.yml .ci/* .github/workflows/* book/*.md book/*.ipynb".split()
OWNER, NAME = r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}", r"(?!(?:\.|\.\.|\.git)/?$)[\w.-]{1,100}?"
ADDRESS = re.compile(rf"https://github\.com/({OWNER})/({NAME})(?:\.git)?/?", re.A)
SSH = re.compile(r"git@github\.com:([^/\s]+/[^/\s]+?)(?:\.git)?")


def parts(url: str) -> tuple[str, str]:
    """Owner and name of a repository on GitHub; the command ends where ``url`` is none."""
    if found := ADDRESS.fullmatch(url):
        return found[1], found[2]
    ssh = SSH.fullmatch(url)
    like = f"https://github.com/{ssh[1]}" if ssh else "https://github.com/ann-example/my-book"
    hint = f"Did you mean {like}?" if ssh else f"Give one like {like}."
    sys.exit(
        f"URL={url!r} is no address of a repository, https:// + github.com + owner + name. {hint}"
    )


def pages(owner: str, name: str) -> str:
    return f"{owner.lower()}.github.io/{name}"  # where GitHub publishes its book


def main(url: str) -> None:
    root, new = Path.cwd(), parts(url)
    named = re.search(r'^Repository = "([^"]*)"', (root / "pyproject.toml").read_text(), re.M)
    if not named:
        sys.exit('pyproject.toml has no line Repository = "https://github.com/...".')
    old = parts(named[1])
    path, whole = re.escape("/".join(old)), r"(?![\w-]|\.(?=\w)(?!git\b))"
    for file in sorted(file for pattern in FILES for file in root.glob(pattern)):
        text = before = file.read_text()
        text = re.sub(rf" *# fails while {path} stands for the repository's[^\"\\\n]*", "", text)
        text = re.sub(rf"(github(?:\.com)?/){path}{whole}", rf"\g<1>{new[0]}/{new[1]}", text)
        text = re.sub(rf"{re.escape(pages(*old))}{whole}", pages(*new), text)
        if text != before:
            file.write_text(text)
            print(file.relative_to(root))


if __name__ == "__main__":
    main(sys.argv[1])
