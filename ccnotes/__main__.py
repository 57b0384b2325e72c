"""The command line: ``python -m ccnotes list | run | show | attribute | data``."""

import json
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import tyro

from ccnotes.data import load_photos
from ccnotes.devices import pick_device
from ccnotes.evaluation import evaluate
from ccnotes.experiments import EXPERIMENTS, Experiment, changes, dataset
from ccnotes.records import PUBLISHED, Record, find, load_model, publish, recall, run, runs_dir

app = tyro.extras.SubcommandApp()
Json = Annotated[bool, tyro.conf.arg(help="print for programs")]
DataDir = Annotated[Path | None, tyro.conf.arg(help="where data lie; $CCNOTES_DATA by default")]
Device = Annotated[str | None, tyro.conf.arg(help="cpu, cuda or mps; the fastest by default")]
Named = tyro.extras.subcommand_type_from_defaults(EXPERIMENTS)
METRICS = ("clean_accuracy", "robust_accuracy", "clean_cas", "robust_cas", "robust_loss")


@app.command(name="list")
def list_experiments(*, json: Json = False) -> None:
    """The named experiments and the records of each."""
    rows = [
        {
            "experiment": record.experiment["name"],
            "data": record.content["dataset"]["title"],
            "seed": record.experiment["seed"],
            "fields changed": ", ".join(f"{k}={v}" for k, v in changed(record).items()),
            "published": record.folder.parent == PUBLISHED,
            "finished": record.content["finished"],
            "folder": str(record.folder),
        }
        for record in find()
    ]
    if json:
        print_json({"experiments": list(EXPERIMENTS), "records": rows})
        return
    print(f"experiments: {', '.join(EXPERIMENTS)}")
    print(pd.DataFrame(rows).to_string(index=False) if rows else "no records yet")


@app.command(name="run")
def run_experiment(
    experiment: Annotated[Named, tyro.conf.arg(name="")],  # type: ignore[valid-type]
    *,
    data_dir: DataDir = None,
    device: Device = None,
    threads: int | None = None,
    fresh: bool = False,
    publish_to: Path | None = None,
    weights: bool = False,
) -> None:
    """Train, evaluate and record; go on where an earlier call of the same run stopped.

    Args:
        threads: of the processor; the same number gives the same bits.
        fresh: train even where a record exists.
        publish_to: copy the finished record to this folder.
        weights: copy the models' weights, too.
    """
    if threads:
        torch.set_num_threads(threads)
    record = run(experiment, data_dir=data_dir, device=device, fresh=fresh)
    print(summary(record).to_string(float_format="{:.3f}".format))
    print(f"record: {record.folder}")
    if publish_to:
        print(f"published: {publish(record, publish_to, weights=weights)}")


@app.command
def show(
    record: Annotated[str, tyro.conf.Positional],
    *,
    seed: int = 0,
    json: Json = False,
) -> None:
    """A record as a table.

    Args:
        record: an experiment's name, or a record's folder.
        seed: of the named experiment.
    """
    found = pick_record(record, seed)
    if json:
        print_json(found.content)
        return
    facts = found.provenance
    print(f"{found.title}: {found.folder}")
    print(f"changed: {changed(found)}")
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    splits = ["train", "validation", "test"]
    columns = [f"{split}_{kind}_accuracy" for split in splits for kind in ("clean", "robust")]
    table = found.table[["epoch", "lr", *columns, "test_robust_cas", "seconds"]]
    print(table.rename(columns=lambda c: c.replace("_accuracy", "")).to_string(index=False))
    if found.content["finished"]:
        print("\non all test images:")
        print(summary(found).to_string(float_format="{:.3f}".format))
    else:
        print("\nnot finished: the same `run` command goes on from here")


@app.command
def attribute(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    experiment: Annotated[Experiment, tyro.conf.arg(name="")] = EXPERIMENTS["planted-at"],
    *,
    data_dir: DataDir = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Similarity matrix and CAS of a saved model, on clean and on attacked test images.

    Args:
        checkpoint: a run's best.safetensors or last.safetensors.
        experiment: says which data and which attack.
    """
    model = load_model(checkpoint).to(pick_device(device))
    data = dataset(experiment, data_dir)
    images = data.test.to(pick_device(device))
    if len(data.classes) != model.head.out_features:
        raise ValueError(
            f"the model tells {model.head.out_features} classes apart, the data have "
            f"{len(data.classes)}: choose the data that it was trained on by --data."
        )
    attack = experiment.eval_attack
    found = evaluate(model, images.images, images.labels, attack, seed=experiment.seed)
    if json:
        print_json({name: value.tolist() for name, value in found.items()})
        return
    top = len(data.classes) * (len(data.classes) - 1)
    for kind in ("clean", "robust"):
        print(f"\n{kind}: accuracy {found[f'{kind}_accuracy']:.3f}, ", end="")
        print(f"CAS {found[f'{kind}_cas']:.2f} of at most {top}, similarity:")
        matrix = pd.DataFrame(found[f"{kind}_similarity"].numpy(), data.classes, data.classes)
        print(matrix.to_string(float_format="{:.2f}".format))


@app.command
def data(
    name: Annotated[str, tyro.conf.Positional],
    *,
    image_size: int | None = None,
    data_dir: DataDir = None,
) -> None:
    """Fetch, check and cache a dataset: cifar10, cifar100 or imagefolder:PATH.

    Args:
        name: of the data.
        image_size: resize the images of a folder to this many pixels.
    """
    found = load_photos(name, data_dir=data_dir, image_size=image_size, validation_size=0)
    print(f"{found.title}: {len(found.train)} training and {len(found.test)} test images")
    print(f"classes: {', '.join(found.classes)}")
    print(f"identity: {found.identity}")


def pick_record(name: str, seed: int) -> Record:
    """The record of exactly the named experiment, else the newest that bears its name."""
    if name in EXPERIMENTS and (exact := recall(replace(EXPERIMENTS[name], seed=seed))):
        return exact
    matching = [r for r in find() if name == str(r.folder) or r.folder == Path(name).resolve()]
    matching = matching or [
        r for r in find() if (r.experiment["name"], r.experiment["seed"]) == (name, seed)
    ]
    if not matching:
        raise ValueError(
            f"no record of {name!r} with seed {seed}, neither published nor in {runs_dir()}. "
            f"See `python -m ccnotes list`, or make it: `python -m ccnotes run {name}`."
        )
    return max(matching, key=lambda record: record.provenance["date"])


def changed(record: Record) -> dict[str, Any]:
    """The fields in which the record differs from the experiment that it is called after."""
    name = record.experiment["name"]
    fields = changes(record.experiment, EXPERIMENTS.get(name, Experiment()))
    return {k: v for k, v in fields.items() if k not in ("name", "seed")}


def summary(record: Record) -> pd.DataFrame:
    rows = {which: getattr(record, which) for which in ("best", "last")}
    return pd.DataFrame(rows).T[["epoch", *METRICS]].astype({"epoch": int})


def print_json(content: Any) -> None:
    print(json.dumps(content, indent=1))


def number(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
    """Let ``8/255`` stand for a number."""
    if info.type is not float:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT",
        instance_from_str=lambda words: float(Fraction(words[0])),
        is_instance=lambda value: isinstance(value, float),
        str_from_instance=lambda value: [f"{value:.6g}"],
    )


def main() -> None:
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(number)
    try:
        with registry:
            app.cli(prog="python -m ccnotes", config=(tyro.conf.CascadeSubcommandArgs,))
    except KeyboardInterrupt:
        sys.exit("stopped; what was evaluated so far is kept, the same command goes on from there")
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
