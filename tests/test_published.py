"""The records that come with the book."""

import json
import sys

from ccnotes import records
from ccnotes.__main__ import main
from ccnotes.experiments import fingerprint, rebuilt
from ccnotes.records import find


def test_published_records_are_found_by_the_start_of_their_names():
    found = records.published("parts-at-head-", seed=3)
    assert sorted(found) == ["frozen", "groups", "simplex"]
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
    assert sum(p.stat().st_size for p in records.PUBLISHED.rglob("*") if p.is_file()) < 20_000_000


def test_the_command_line_lists_them_as_published_and_shows_that_of_exactly_the_name(
    monkeypatch, capsys, tmp_path
):
    """Rather than a newer run that bears the same name and has other settings."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["ccnotes", *arguments, "--json"])
        main()
        return json.loads(capsys.readouterr().out)

    rows = command("list")["records"]
    assert rows
    assert all(row["published"] and row["finished"] for row in rows)
    exact = command("show", "planted-at", "--seed", "2")
    assert (exact["experiment"]["seed"], exact["experiment"]["epochs"]) == (2, 100)
    newer = exact | {
        "experiment": exact["experiment"] | {"epochs": 7},
        "provenance": exact["provenance"] | {"date": "2999-01-01T00:00:00+00:00"},
    }
    own = tmp_path / "runs" / "own"
    own.mkdir(parents=True)
    (own / "record.json").write_text(json.dumps(newer))
    assert command("show", "planted-at", "--seed", "2") == exact
