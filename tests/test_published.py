"""The records that come with the book."""

import json
import sys

from ccnotes import records
from ccnotes.__main__ import main
from ccnotes.experiments import fingerprint, rebuilt
from ccnotes.records import find


def test_published_records_are_found_by_the_start_of_their_names():
    found = records.published("planted-at-eps", seed=3)
    assert sorted(found) == ["12", "16", "2", "4", "6"]
    assert all(record.experiment["seed"] == 3 for record in found.values())


def test_every_published_record_loads_and_bears_its_own_fingerprint():
    published = [r for r in find() if r.folder.parent == records.PUBLISHED]
    assert published
    for record in published:
        e, precision = rebuilt(record.experiment), record.provenance["precision"]
        identity = record.content["dataset"]["identity"]
        assert fingerprint(e, precision, identity) == record.content["fingerprint"]
        assert record.content["finished"]
        assert len(record.table) == len(record.arrays["test_robust_similarity"])
        assert "best_head.weight" in record.arrays
    assert sum(p.stat().st_size for p in records.PUBLISHED.rglob("*")) < 10_000_000


def test_the_command_line_lists_them_as_published_and_shows_that_of_exactly_the_name(
    monkeypatch, capsys
):
    said = []
    for arguments in (["list", "--json"], ["show", "planted-at", "--seed", "2", "--json"]):
        monkeypatch.setattr(sys, "argv", ["ccnotes", *arguments])
        main()
        said.append(json.loads(capsys.readouterr().out))
    rows, shown = said[0]["records"], said[1]
    assert rows
    assert all(row["published"] and row["finished"] for row in rows)
    assert (shown["experiment"]["seed"], shown["experiment"]["epochs"]) == (2, 100)
