"""The project's files agree with one another."""

import ast
import importlib.util
import itertools
import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ccnotes.files import sha256_of
from ccnotes.records import PUBLISHED, find

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


def texts():
    """Every text file that git tracks or would: path in the repository, content."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this is no git checkout, so the project's own files are not known")
    for name in filter(None, done.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            yield name, content.decode()


def assert_one_address(root):
    """Other repositories may be named; this one only by the address in pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    repository, tag = project["urls"]["Repository"], f"v{project['version']}"
    path = repository.removeprefix("https://github.com/")
    owner, name = path.split("/")
    placeholder = "/".join(["OWNER", "REPO"])
    config = yaml.safe_load((root / "_config.yml").read_text())
    assert config["repository"]["url"] == repository
    assert yaml.safe_load((root / "CITATION.cff").read_text())["repository-code"] == repository
    readme = (root / "README.md").read_text()
    assert repository in readme
    assert f"(https://{owner.lower()}.github.io/{name}/)" in readme
    for file, _ in texts():
        text = (root / file).read_text()
        assert path == placeholder or placeholder not in text, f"{file} has the placeholder still"
        for link in re.findall(r"colab\.research\.google\.com/github/([\w./-]+)", text):
            assert link.startswith(f"{path}/blob/notebooks/{tag}/"), f"{file} links Colab to {link}"
        for link, at in re.findall(r"git\+(https://[\w./-]+)(?:@([\w.]+))?", text):
            assert link.removesuffix(".git") == repository, f"{file} installs from {link}"
            assert at in ("", tag), f"{file} installs {at}"


def test_the_repository_address_is_the_same_everywhere():
    assert_one_address(ROOT)


def address(root, url):
    """``make address`` in a folder; whether it was content, and what it said."""
    command = ["make", "-s", "address", f"PYTHON={sys.executable}", f"URL={url}"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_make_address_sets_the_address_in_every_file_and_again(tmp_path):
    for name, _ in texts():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for url in ("https://github.com/ann/cross.class/", "https://github.com/Bob-2/notes.git"):
        done = address(tmp_path, url)
        assert not done.returncode, done.stderr
        assert_one_address(tmp_path)
        new = url.removesuffix("/").removesuffix(".git")
        assert f'Repository = "{new}"' in (tmp_path / "pyproject.toml").read_text()
    for path in sorted((tmp_path / "book").glob("*.ipynb")):
        nbformat.validate(nbformat.read(path, as_version=4))
        assert f"git+{new}@v{PROJECT['version']}" in path.read_text()
        assert "stands for the repository" not in path.read_text()


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("", "Give one like https://github.com/ann-example/my-book."),
        ("git@github.com:ann/book.git", "Did you mean https://github.com/ann/book?"),
        ("http://github.com/ann/book", "Give one like"),
        ("https://gitlab.com/ann/book", "Give one like"),
        ("https://github.com/ann", "Give one like"),
        ("https://github.com/ann/..", "Give one like"),
        ("https://github.com/ann/.git", "Give one like"),
        ("https://github.com/ann/book/tree/main", "Give one like"),
        ("https://github.com/-ann/book", "Give one like"),
        ("https://github.com/ann/bo ok", "Give one like"),
        ("https://github.com/ann/b'; false '", "Give one like"),
    ],
)
def test_make_address_refuses_what_is_no_address_and_writes_nothing(url, remedy, tmp_path):
    (tmp_path / ".ci").mkdir()
    for name in ("Makefile", "pyproject.toml", ".ci/address.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    done = address(tmp_path, url)
    assert done.returncode
    assert f"URL={url!r} is no address" in done.stderr
    assert remedy in done.stderr
    assert (tmp_path / "pyproject.toml").read_text() == (ROOT / "pyproject.toml").read_text()


def test_no_package_index_is_named():
    hosts = ["pypi" + ".org", "python" + "hosted.org", "deb" + ".debian.org", "registry.npm" + "js"]
    for name, text in texts():
        assert not [host for host in hosts if host in text], name


def test_no_path_of_a_machine_is_named():
    homes = ["/ho" + "me/", "/Us" + "ers/", "/ro" + "ot/", str(ROOT.parent) + "/"]
    for name, text in texts():
        assert not [home for home in homes if len(home) > 1 and home in text], name


def test_the_citation_is_of_this_version_and_cites_the_paper():
    assert CITATION["version"] == PROJECT["version"]
    assert CITATION["license"] == PROJECT["license"]
    (paper,) = CITATION["references"]
    assert "2506.05032" in paper["url"]


def test_the_changelog_knows_this_version():
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_constraints_pin_what_the_project_asks_for():
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.M))
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    names = {re.match(r"[\w.-]+", wanted)[0] for wanted in itertools.chain(*lists)}
    assert not names - pins.keys()
    assert not [name for name in pins if name.startswith(("nvidia-", "cuda-"))]


def test_torch_is_new_enough_to_read_weights_of_strangers():
    """Before 2.10 a checkpoint could run code even under weights_only=True (CVE-2026-24747)."""
    (torch,) = (r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "torch")
    assert not torch.specifier.contains("2.9.1")
    assert torch.specifier.contains("2.10.0")


def test_workflows_use_actions_by_commit_and_build_without_rights_to_publish():
    for path in sorted((ROOT / ".github/workflows").glob("*.yml")):
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {"contents": "read"}, path.name
        for name, job in workflow["jobs"].items():
            used = [step["uses"] for step in job["steps"] if "uses" in step]
            assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) for action in used), path.name
            installs = any("run" in step for step in job["steps"])
            assert not (installs and job.get("permissions")), f"{path.name}, {name}"
            for step in job["steps"]:
                if "actions/checkout@" in step.get("uses", ""):
                    assert step["with"]["persist-credentials"] is False, path.name


API = [
    name
    for page in sorted((ROOT / "book").glob("api_*.md"))
    for name in re.findall(r"automodule:: (ccnotes\.\S+)", page.read_text())
]


def imported(path):
    """The modules of ours that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ccnotes"):
            own = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in API else node.module for name in own)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("ccnotes"))


@pytest.mark.parametrize("module", API)
def test_imports_run_one_way_in_the_order_of_the_api_pages(module):
    """A folder stands where the last of its modules does; ``ccnotes`` itself imports lazily."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    place = {name: number for number, name in enumerate(API)}
    for name in set(imported(path)) - {"ccnotes"}:
        last = max(n for known, n in place.items() if f"{known}.".startswith(f"{name}."))
        assert last < place[module], f"{module} imports {name}, which stands below it"


def test_the_readme_shows_the_house_in_the_order_of_the_api_pages():
    house = (ROOT / "README.md").read_text().split("## What is where")[1]
    rooms = list(dict.fromkeys(name.split(".")[1] for name in API))
    shown = [word for word in re.findall(r"[a-z_]+", house.split("ccnotes/")[1]) if word in rooms]
    assert list(dict.fromkeys(shown)) == rooms


def colab():
    """What Colab ships, as far as it concerns us: name, version."""
    pins = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / ".ci/colab-versions.txt").read_text(), re.M)
    return {canonicalize_name(name): version for name, version in pins}


def test_the_package_is_content_with_what_colab_ships():
    """Else the set-up cell would replace a library that the kernel there may hold already."""
    shipped = colab()
    for wanted in map(Requirement, PROJECT["dependencies"]):
        if version := shipped.get(canonicalize_name(wanted.name)):
            assert wanted.specifier.contains(version), f"{wanted}, but Colab ships {version}"


def test_chapters_import_what_colab_ships_or_the_package_brings():
    brought = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    known = {*brought, *colab()}
    homes = packages_distributions()
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        for cell in cells:
            imported = set(re.findall(r"^\s*(?:import|from) (\w+)", cell.source, re.M))
            for name in imported - sys.stdlib_module_names - {"ccnotes"}:
                assert known & {*map(canonicalize_name, homes.get(name, []))}, (
                    f"{path.name} imports {name}, which Colab lacks: make it a dependency"
                )


def script(name):
    """A script of the book's folder, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"book/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_shows_what_the_records_say():
    readme = script("readme")
    shown = (ROOT / "README.md").read_text().split(readme.START)[1].split(readme.END)[0]
    assert shown.strip() == readme.results(), "run `make readme`"


def test_the_networks_in_checkpoints_are_those_of_their_table():
    readme, home = script("readme"), ROOT / "checkpoints"
    rows = json.loads((PUBLISHED / "checkpoints.json").read_text())
    files = {path.name: sha256_of(path) for path in home.glob("*.safetensors")}
    page = (home / "README.md").read_text()
    assert all(f"`{digest}`" in page for digest in files.values())
    assert {row["file"]: row["sha256"] for row in rows} == files
    assert sum(path.stat().st_size for path in home.iterdir()) < 30_000_000
    shown = page.split(readme.START)[1].split(readme.END)[0]
    assert shown.strip() == readme.networks(), "run `make readme`"
    for row in rows:
        accuracy = {name: of["all"] for name, of in row["attacks"].items()}
        assert row["accuracy"] == min(accuracy.values())
        assert accuracy["PGD-50"] <= accuracy["PGD-10"] < accuracy["clean"]


def test_a_network_of_the_repository_is_loaded_as_its_page_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(r"```python\n(.*?)```", Path("checkpoints/README.md").read_text(), re.S)
    assert len([line for line in code.splitlines() if line]) == 3
    names = {"images": torch.rand(2, 3, 32, 32)}
    exec(code, names)
    assert names["logits"].shape == (2, 10)


def test_the_first_page_has_a_card_with_a_picture_for_each_chapter():
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    chapters = [Path(chapter["file"]).name for part in parts[:2] for chapter in part["chapters"]]
    chapters.append("ledger")
    cells = nbformat.read(ROOT / "book/index.ipynb", as_version=4).cells
    text = "\n".join(cell.source for cell in cells)
    assert re.findall(r"^:::\{grid-item-card\}.*\n:link: (\w+)$", text, re.M) == chapters
    assert re.findall(r"^:img-top: _static/chapters/(\w+)\.svg$", text, re.M) == chapters
    assert [*script("thumbnails").CHAPTERS] == chapters


def test_no_chapter_trains_in_make_test_what_it_should_recall():
    """The user's own runs are cut off, too, so that what a chapter recalls is published."""
    commands = (ROOT / "Makefile").read_text().replace("\\\n", " ").splitlines()
    (executed,) = (command for command in commands if "--nbmake " in command)
    assert "CCNOTES_ONLY_RECALL=1" in executed
    assert 'CCNOTES_RUNS="$$(pwd)/_check/runs"' in executed


def test_no_two_published_records_answer_to_one_name():
    """Tables that ask for records by their names would show either."""
    known = [
        (r.title, r.content["dataset"]["identity"]) for r in find() if r.folder.parent == PUBLISHED
    ]
    assert len(known) == len(set(known)) > 0
