"""The project's files agree with one another."""

import itertools
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

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


def test_the_repository_address_is_the_same_everywhere():
    """Other repositories may be named; this one only by the address in pyproject.toml."""
    path = REPOSITORY.removeprefix("https://github.com/")
    placeholder = "/".join(["OWNER", "REPO"])
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert config["repository"]["url"] == REPOSITORY
    assert CITATION["repository-code"] == REPOSITORY
    assert REPOSITORY in (ROOT / "README.md").read_text()
    for name, text in texts():
        assert path == placeholder or placeholder not in text, f"{name} has the placeholder still"
        for link in re.findall(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)", text):
            assert link == path, f"{name} links Colab to {link}"
        for link, tag in re.findall(r"git\+(https://[\w./-]+)(?:@v([\w.]+))?", text):
            assert link.removesuffix(".git") == REPOSITORY, f"{name} installs from {link}"
            assert tag in ("", PROJECT["version"]), f"{name} installs {tag}"


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
