"""The command line: ``python -m ccnotes list | run | sweep | show | attribute | cams | ...``."""

import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch
import tyro

from ccnotes.arguments import (
    check_memory,
    check_run,
    check_steps,
    check_width,
    registry,
    seeds_in,
    use,
)
from ccnotes.attacks import PGD
from ccnotes.attribution import group_similarity, spread
from ccnotes.claims import group_accuracy
from ccnotes.collapse import outcome_of, surfaces
from ccnotes.data import Dataset, load_photos, sha256_of
from ccnotes.devices import pick_device
from ccnotes.evaluation import evaluate
from ccnotes.experiments import (
    CIFAR10_FULL,
    EXPERIMENTS,
    Experiment,
    changes,
    dataset,
    named,
    rebuilt,
)
from ccnotes.foreign import network_named, series, split_network
from ccnotes.monitor import part
from ccnotes.ranks import joined, launched, ranks
from ccnotes.records import (
    PUBLISHED,
    TABLE,
    Record,
    at_once,
    find,
    load,
    load_model,
    provenance,
    publish,
    recall,
    run,
    runs_dir,
    write_cams,
    write_compressed,
    write_swaps,
)
from ccnotes.robustness import robustness
from ccnotes.slurm import Slurm
from ccnotes.sweeps import Cores, Workers
from ccnotes.training import OutOfTime
from ccnotes.weights import load_weights

app = tyro.extras.SubcommandApp()
Json = Annotated[bool, tyro.conf.arg(help="print for programs")]
DataDir = Annotated[Path | None, tyro.conf.arg(help="where data lie; $CCNOTES_DATA by default")]
Device = Annotated[str | None, tyro.conf.arg(help="cpu, cuda or mps; the fastest by default")]
Named = tyro.extras.subcommand_type_from_defaults(
    EXPERIMENTS,
    descriptions={
        "planted-at": "adversarial training on planted images: about a minute on two cores",
        "parts-at": "adversarial training on planted parts: about two minutes on two cores",
        "cifar10-at": "adversarial training on photographs: an hour or two on one core",
    },
)
STOPPED_IN_TIME = 75  # exit status: try again later
PLAIN = Experiment()
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
            "finished": record.finished,
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
    minutes: float | None = None,
    fresh: bool = False,
    compile: bool | None = None,
    publish_to: Path | None = None,
    weights: bool = False,
    sample_attribution: bool = False,
    vectors: bool = False,
    per_image: bool = False,
) -> None:
    """Train, evaluate and record; go on where an earlier call of the same run stopped.

    A run that is on record already, published ones included, is shown at once. Several processes
    share one: torchrun --nproc-per-node 2 -m ccnotes run NAME.

    Args:
        threads: of the processor; the same number gives the same bits.
        minutes: stop in that time, with exit status 75; the same command goes on from there.
        fresh: train even where a record exists.
        compile: the passes of the network; by default on CUDA, and on processors in long runs.
        publish_to: copy the finished record to this folder.
        weights: copy the networks' weights, too.
        sample_attribution: copy single images' attribution vectors, too.
        vectors: copy the class means and heads of all evaluations, too.
        per_image: copy what judges the choice of test images, too.
    """
    if (weights or sample_attribution or vectors or per_image) and publish_to is None:
        raise ValueError(
            "--weights, --sample-attribution, --vectors and --per-image say what to publish, so "
            "they need --publish-to FOLDER."
        )
    if publish_to is not None and publish_to.exists() and not publish_to.is_dir():
        raise ValueError(f"--publish-to {publish_to} is no folder: name one, there or not yet.")
    check_run(experiment, minutes)
    use(threads)
    with joined(device) as where:
        record = run(
            experiment,
            data_dir=data_dir,
            device=where,
            fresh=fresh,
            minutes=minutes,
            weights=weights,
            go_on=True,
            compile=compile,
        )
        if ranks().rank > 0:  # the first alone says and publishes what they made
            return
    print(summary(record).to_string(float_format="{:.3f}".format))
    print(f"record: {record.folder}")
    if publish_to is not None:
        published = publish(
            record,
            publish_to,
            weights=weights,
            sample_attribution=sample_attribution,
            vectors=vectors,
            per_image=per_image,
        )
        print(f"published: {published}")


@app.command(name="sweep")
def sweep_experiments(
    names: Annotated[tuple[str, ...], tyro.conf.Positional],
    *,
    seeds: str = "0",
    jobs: int | None = None,
    data_dir: DataDir = None,
    device: Device = None,
    slurm: str | None = None,
    gpus: int | None = None,
    time: int | None = None,
) -> None:
    """Make the runs that are not on record yet, several at once, each on one thread.

    What was stopped goes on from there when the same command is given again.

    Args:
        names: of the experiments.
        seeds: of the runs, such as 0-19 or 0,3,7-9.
        jobs: runs at once; as many as there are cores by default, on Slurm all.
        slurm: the partition of a Slurm cluster that is to make them.
        gpus: of a job on Slurm; none by default.
        time: minutes that a job on Slurm may take before it is queued again; 60 by default.
    """
    if not names:
        raise ValueError("name the experiments to run; `python -m ccnotes list` has them.")
    if slurm is None and (gpus, time) != (None, None):
        raise ValueError("--gpus and --time are for jobs on Slurm, so they need --slurm PARTITION.")
    several = [named(name) for name in names]
    wanted = [replace(e, seed=seed) for e in several for seed in seeds_in(seeds)]
    workers: Workers
    if slurm is None:
        workers = Cores(torch.get_num_threads() if jobs is None else jobs)
    else:
        limits = {"gpus": gpus, "minutes": time, "jobs": jobs}
        workers = Slurm(slurm, **{k: v for k, v in limits.items() if v is not None})
    records = at_once(wanted, workers, data_dir=data_dir, device=device)
    print(f"all {len(records)} runs are on record; `python -m ccnotes list` has their folders")


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
    if found.finished:
        print("\non the test images kept for the end:")
        print(summary(found).to_string(float_format="{:.3f}".format))
    else:
        print("\nnot finished: the same `run` command goes on from here")


@app.command
def attribute(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    *,
    data: str | None = None,
    image_size: int | None = None,
    seed: int | None = None,
    eps: float | None = None,
    data_dir: DataDir = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Similarity matrix and CAS of a saved model, on clean and on attacked test images.

    Data, seed, attack and precision are those of the model's own run unless given.

    Args:
        checkpoint: a run's best.safetensors or last.safetensors.
        data: planted, parts, cifar10, cifar100, cifar10-jpeg or imagefolder:PATH.
        image_size: resize the images of a folder to this many pixels.
        seed: of planted images and of the attack's random starts.
        eps: radius of the attack, such as 8/255; its step is eps / 4 (l2: eps / 8).
    """
    model = load_model(checkpoint).to(pick_device(device))
    home = load(checkpoint.parent)
    e = rebuilt(home.experiment)
    given: dict[str, Any] = {"data": data, "image_size": image_size, "seed": seed}
    e = replace(e, **{name: value for name, value in given.items() if value is not None})
    if eps is not None:
        e = replace(e, eval_eps=eps)
    source = tested_on(e, data_dir)
    known = tuple(home.content["dataset"]["classes"])
    if source.classes != known:
        raise ValueError(
            f"the model tells apart {listed(known)}, in this order, but the classes of the data "
            f"are {listed(source.classes)}: choose data with the classes that it was trained on."
        )
    test, precision = source.test.to(pick_device(device)), home.provenance["precision"]
    found = evaluate(
        model, test.images, test.labels, e.eval_attack, seed=e.seed, precision=precision
    ).flat()
    if json:
        print_json({name: value.tolist() for name, value in found.items()})
        return
    top = len(source.classes) * (len(source.classes) - 1)
    for kind in ("clean", "robust"):
        print(f"\n{kind}: accuracy {found[f'{kind}_accuracy']:.3f}, ", end="")
        print(f"CAS {found[f'{kind}_cas']:.2f} of at most {top}, similarity:")
        if source.groups:
            groups = torch.tensor(source.groups)
            pairs = group_similarity(found[f"{kind}_similarity"], groups)
            share = group_accuracy(found[f"{kind}_confusion"], source.groups)
            print(f"inside groups {pairs.inside:.2f}, across {pairs.across:.2f}; ", end="")
            print(f"{share:.3f} of the images are taken for a class of their group")
        matrix = pd.DataFrame(found[f"{kind}_similarity"].numpy(), source.classes, source.classes)
        print(matrix.to_string(float_format="{:.2f}".format))


@app.command
def attack(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    *,
    data: str | None = None,
    image_size: int | None = None,
    images: int = 1000,
    eps: float | None = None,
    norm: Literal["linf", "l2"] = "linf",
    steps: int = 10,
    batch_size: int | None = None,
    network: str | None = None,
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    prefix: str | None = None,
    data_dir: DataDir = None,
    device: Device = None,
    threads: int | None = None,
    json: Json = False,
) -> None:
    """Robust accuracy by PGD and AutoAttack; the same command goes on where it was stopped.

    Args:
        checkpoint: a run's best.safetensors or last.safetensors, or with --network any other's.
        data: a name of data, or imagefolder:PATH; that of the checkpoint's own run by default.
        image_size: resize the images of a folder to this many pixels.
        images: at most so many of the test images, as many of each class as of any other.
        eps: radius, such as 8/255 (l2: 128/255), which are the defaults but for a run's own.
        norm: of the ball.
        steps: of PGD; it runs with five times as many, too.
        batch_size: images that are attacked together; what is stopped loses the work on these.
        network: timm:NAME, MODULE:NAME, FILE.py:NAME, or preactresnet,WIDTH and so on.
        mean: by which that network wants pixels in [0, 1] normalised, one number per channel.
        std: likewise.
        prefix: of the weights' names, where a file holds several sets.
    """
    use(threads)
    check_steps(steps=steps)
    if network is None:
        model: torch.nn.Module = load_model(checkpoint)
        if checkpoint.with_name(TABLE).is_file():  # of a run, which has data and radius
            e = rebuilt(load(checkpoint.parent).experiment)
            e = replace(e, data=data or e.data, image_size=image_size or e.image_size)
            norm, eps = e.attack.norm, e.eval_attack.eps if eps is None else eps
        else:
            e = foreign_data(data, image_size)
        source = tested_on(e, data_dir)
    else:
        source = tested_on(foreign_data(data, image_size), data_dir)
        made = network_named(network, len(source.classes), source.test.images.shape[-1])
        model = split_network(load_weights(made, checkpoint, prefix=prefix), mean=mean, std=std)
    eps = {"linf": 8 / 255, "l2": 128 / 255}[norm] if eps is None else eps
    ball = PGD(norm=norm, eps=eps, step_size=eps / (4 if norm == "linf" else 8), steps=steps)
    chosen = pick_device(device)
    test = part(source.test, images).to(chosen)
    found = robustness(
        model.to(chosen),
        test.images,
        test.labels,
        ball,
        batch_size=batch_size,
        keep=runs_dir() / "attacks",
    )
    table = found.table(source.classes)
    if json:
        said: dict[str, Any] = {"file": checkpoint.name, "sha256": sha256_of(checkpoint)}
        said |= {"data": source.title, "images": len(test), "norm": norm, "eps": eps}
        said |= {"accuracy": found.accuracy, "attacks": table.T.to_dict()}
        print_json(said | {"provenance": provenance(chosen, "float32")})
        return
    print(f"{len(test)} test images of {source.title}, {norm} ball of radius {eps:.4g}")
    print(table.T.to_string(float_format="{:.3f}".format))
    print(f"robust accuracy: {found.accuracy:.1%} (AutoAttack alone: {found.autoattack:.1%})")


@app.command(name="series")
def follow_series(
    checkpoints: Annotated[str, tyro.conf.Positional],
    *,
    network: str,
    data: str,
    image_size: int | None = None,
    images: int = 1000,
    eps: float = 8 / 255,
    steps: int = 10,
    head: str | None = None,
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    prefix: str | None = None,
    csv: Path | None = None,
    data_dir: DataDir = None,
    device: Device = None,
    threads: int | None = None,
    json: Json = False,
) -> None:
    """Accuracy, CAS, head or features of a series of checkpoints, epoch by epoch.

    Args:
        checkpoints: a folder, or a pattern in quotes, such as 'runs/epoch_*.pt'.
        network: timm:NAME, MODULE:NAME, FILE.py:NAME, or preactresnet,WIDTH and so on.
        data: a name of data, or imagefolder:PATH.
        image_size: resize the images of a folder to this many pixels.
        images: at most so many of the test images, as many of each class as of any other.
        eps: radius of PGD in the linf norm, such as 8/255; its step is eps / 4.
        steps: of PGD.
        head: the name of the linear layer that gives the logits; by default the last.
        mean: by which the network wants pixels in [0, 1] normalised, one number per channel.
        std: likewise.
        prefix: of the weights' names, where files hold several sets.
        csv: write the table to this file, too.
    """
    use(threads)
    check_steps(steps=steps)
    source = tested_on(foreign_data(data, image_size), data_dir)
    test = part(source.test, images).to(pick_device(device))
    table = series(
        network_named(network, len(source.classes), test.images.shape[-1]),
        checkpoints,
        test.images,
        test.labels,
        PGD(eps=eps, step_size=eps / 4, steps=steps),
        head=head,
        mean=mean,
        std=std,
        prefix=prefix,
    )
    if csv is not None:
        csv.write_text(table.to_csv(index=False))
    if json:
        print_json(table.to_dict("records"))
        return
    print(f"{len(test)} test images of {source.title}, PGD-{steps} of radius {eps:.4g}")
    shown = table.drop(columns=["file", "left_out", "robust_nc1", "robust_nc2", "robust_nc3"])
    print(shown.to_string(index=False, float_format="{:.3f}".format))
    for row in table[table.left_out != ""].itertuples():
        print(f"{row.file}: left out {row.left_out}")


@app.command
def cams(
    folder: Annotated[Path, tyro.conf.Positional],
    *,
    data: str | None = None,
    data_dir: DataDir = None,
    publish_to: Path | None = None,
    json: Json = False,
) -> None:
    """Where the best and the last network of a run look: Grad-CAM of all its test images.

    Args:
        folder: of the run, with its best.safetensors and last.safetensors.
        data: imagefolder:PATH, where the run's images came from a folder.
        publish_to: copy the maps to the record of that name in this folder.
    """
    found = load(folder)
    if publish_to:
        load(publish_to / found.folder.name)  # maps alone are no record
    made = write_cams(found, data_dir, data=data)
    covered = {which: spread(maps).nanmean().item() for which, maps in found.cams.items()}
    if json:
        print_json({"file": str(made), "spread": covered})
    else:
        print(", ".join(f"{which}: spread {value:.3f}" for which, value in covered.items()))
        print(f"maps: {made}")
    if publish_to:
        shutil.copy(made, publish_to / found.folder.name / made.name)


@app.command
def swaps(
    folder: Annotated[Path, tyro.conf.Positional],
    *,
    data: str | None = None,
    data_dir: DataDir = None,
    images: int = 2000,
    publish_to: Path | None = None,
    threads: int | None = None,
) -> None:
    """The best and the last network of a run with their heads swapped, each attacked itself.

    Args:
        folder: of the run, with its best.safetensors and last.safetensors.
        data: imagefolder:PATH, where the run's images came from a folder.
        images: at most so many of the test images.
        publish_to: copy what is found to the record of that name in this folder.
    """
    found = load(folder)
    if publish_to:
        load(publish_to / found.folder.name)  # swaps alone are no record
    use(threads)
    made = write_swaps(found, data_dir, data=data, images=images)
    both = ("best", "last")
    names = pd.MultiIndex.from_product([both, both], names=["features of", "head of"])
    scalars = {name: v.flatten().tolist() for name, v in found.swaps.items() if v.ndim == 2}
    print(pd.DataFrame(scalars, names).to_string(float_format="{:.3f}".format))
    print(f"swaps: {made}")
    if publish_to:
        shutil.copy(made, publish_to / found.folder.name / made.name)


@app.command
def compress(
    folder: Annotated[Path, tyro.conf.Positional],
    *,
    to: Path,
    json: Json = False,
) -> None:
    """The best and the last network of a run in a quarter of the bytes, to be given away.

    Args:
        folder: of the run, with its best.safetensors and last.safetensors.
        to: the folder that they are written to.
    """
    made = [
        {"file": str(path), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in write_compressed(load(folder), to)
    ]
    if json:
        print_json(made)
    else:
        print("\n".join(f"{row['file']}: {row['bytes']:,} bytes" for row in made))


@app.command(name="one-step")
def one_step(
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional],
    *,
    surface: bool = False,
    data_dir: DataDir = None,
    threads: int | None = None,
) -> None:
    """What runs have to say of one step, as JSON, a line a run; PGD-50 at the end of each.

    Args:
        folders: of runs, each with its best.safetensors and last.safetensors.
        surface: instead the loss around images after each epoch; each run is trained once more.
    """
    use(threads)
    told = surfaces if surface else outcome_of
    rows = [json.dumps(told(load(folder), data_dir)) for folder in folders]
    print("[\n" + ",\n".join(rows) + "\n]")


@app.command
def photographs(
    checkpoints: Annotated[Path, tyro.conf.Positional],
    *,
    name: str = "cifar10-full-at",
    frames: bool = False,
    threads: int | None = None,
) -> None:
    """What the best and the last network of a run make of the book's photographs, as JSON.

    Args:
        checkpoints: folder with the weights, NAME-best.safetensors and NAME-last.safetensors.
        name: of the run, which must be on record.
        frames: instead, photographs attacked at each radius, on the best network and on a standard
            one, that of pyautoattack.
    """
    from ccnotes.frames import framed, standard
    from ccnotes.photographs import seen

    use(threads)
    if frames:
        robust = load_model(checkpoints / f"{name}-best.safetensors")
        print(json.dumps(framed({"standard": standard(), "robust": robust})))
    else:
        print(json.dumps(seen(pick_record(name, 0), checkpoints)))


@app.command(name="bench")
def measure_speed(
    *,
    widths: tuple[int, ...] = (16, 64),
    name: str = CIFAR10_FULL.name,
    batch_size: int = 128,
    steps: int = 10,
    rounds: int = 3,
    device: Device = None,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    compile: bool = False,
    threads: int | None = None,
    attacks: bool = False,
    growth: bool = False,
    json: Json = False,
) -> None:
    """Our training step beside a plain one and beside what the machine can multiply.

    Args:
        widths: of the network, PreActResNet-18 by default; 64 is the full one.
        name: of the experiment whose network learns from images like its own, such as parts-at.
        batch_size: images a step.
        steps: of the attack.
        rounds: of which each times both steps; figures are medians.
        precision: of our step.
        compile: our step's network.
        threads: of the processor; fewer than it has where other work runs beside.
        attacks: time our attack beside those of other libraries that are installed, instead.
        growth: measure memory and time of the analysis as classes and images grow, instead.
    """
    # Here, as torchvision takes seconds to load.
    from ccnotes.benchmark import bench
    from ccnotes.growth import growth as grown
    from ccnotes.peers import bench_attacks

    if attacks and growth:
        raise ValueError("--attacks and --growth ask for a table each: give one of them.")
    if attacks and name != CIFAR10_FULL.name:
        raise ValueError(f"--attacks is of PreActResNet-18 alone: leave out --name {name}.")
    use(threads)
    if growth:
        rows = grown(threads=threads)
        print_json(rows) if json else print(pd.DataFrame(rows).to_string(index=False))
        return
    check_steps(steps=steps)
    check_memory(3 * 32 * 32 * batch_size, f"batch_size={batch_size}")
    experiment = named(name)
    for width in widths:
        check_width(experiment.model, width)
    rows = (bench_attacks if attacks else partial(bench, experiment=experiment))(
        widths,
        batch_size=batch_size,
        steps=steps,
        rounds=rounds,
        device=device,
        precision=precision,
        compile=compile,
    )
    if json:
        print_json(rows)
        return
    if attacks:
        columns = ["width", "attacker", "version", "ms", "ratio", "ratio_best", "loss", "first_s"]
        table = pd.DataFrame(rows).dropna(subset="ms")[columns]
        print(table.to_string(index=False, float_format="{:.2f}".format))
        for row in rows[: len(rows) // len(widths)]:
            if row["skipped"]:
                print(f"{row['attacker']}: {row['skipped']}")
        print(", ".join(f"{name} {rows[0][name]}" for name in ("hardware", "threads", "torch")))
        return
    columns = ["width", "ours_ms", "eager_ms", "reference_ms", "cifar10_epoch_s", "ratio"]
    columns += ["ratio_low", "ratio_high", "ours_peak_share", "reference_peak_share"]
    table = pd.DataFrame(rows)[columns]
    whole = {name: table[name].round().astype(int) for name in columns[1:5]}
    print(table.assign(**whole).to_string(index=False, float_format="{:.2f}".format))
    facts = ("hardware", "threads", "precision", "torch", "peak_gflops", "float32_peak_gflops")
    print(", ".join(f"{name} {rows[0][name]}" for name in facts))


@app.command
def data(
    name: Annotated[str, tyro.conf.Positional],
    *,
    image_size: int | None = None,
    data_dir: DataDir = None,
    show: bool = False,
) -> None:
    """Fetch, check and cache a dataset: cifar10, cifar100, svhn, tiny-imagenet, imagefolder:PATH.

    Args:
        name: of the data.
        image_size: resize the images of a folder to this many pixels.
        show: write a contact sheet, the first images of each class, to this folder.
    """
    drawn = name in ("planted", "parts")
    if drawn and not show:
        raise ValueError(
            "planted images are made when they are needed; nothing is fetched. To see some, add "
            "--show."
        )
    if drawn:
        found = dataset(Experiment(data=name, image_size=image_size))
    else:
        found = load_photos(name, data_dir=data_dir, image_size=image_size, validation_size=0)
    print(f"{found.title}: {len(found.train)} training and {len(found.test)} test images")
    print(f"classes: {', '.join(found.classes)}")
    if found.groups:
        print(f"groups: {len(set(found.groups))}")
    print(f"identity: {found.identity}")
    if show:
        from ccnotes.plots import contact_sheet  # here, as matplotlib takes a second to load

        sheet = Path(f"{found.name}-sheet.png")
        contact_sheet(found).savefig(sheet, dpi=150)
        print(f"contact sheet: {sheet.resolve()}")


def foreign_data(data: str | None, image_size: int | None) -> Experiment:
    """An experiment on those data. ValueError where none are named."""
    if data is None:
        raise ValueError("no run of ccnotes lies beside these weights: name the images by --data.")
    return Experiment(data=data, image_size=image_size)


def tested_on(e: Experiment, data_dir: Path | None) -> Dataset:
    """The experiment's data, of photographs all that there are: only test images are needed."""
    whole = e if e.drawn is not None else replace(e, train_size=None, validation_size=0)
    return dataset(whole, data_dir)


def listed(classes: Sequence[str]) -> str:
    """Names of classes, the first ten of them."""
    return ", ".join(classes[:10]) + (f" and {len(classes) - 10} more" if classes[10:] else "")


def pick_record(name: str, seed: int) -> Record:
    """The record of exactly the named experiment, else the newest that bears its name."""
    if name in EXPERIMENTS and (exact := recall(replace(EXPERIMENTS[name], seed=seed))):
        return exact
    if (Path(name) / TABLE).exists():
        return load(Path(name))
    matching = [r for r in find() if (r.experiment["name"], r.experiment["seed"]) == (name, seed)]
    if not matching:
        make = f", or make it: `python -m ccnotes run {name} --seed {seed}`"
        make *= name in EXPERIMENTS
        raise ValueError(
            f"no record of {name!r} with seed {seed} is published or in {runs_dir()}, and no "
            f"folder of that name holds one. See `python -m ccnotes list`{make}."
        )
    return max(matching, key=lambda record: record.provenance["date"])


def changed(record: Record) -> dict[str, Any]:
    """The fields in which the record differs from the experiment that it is called after."""
    name = record.experiment["name"]
    fields = changes(record.experiment, EXPERIMENTS.get(name, PLAIN))
    return {k: v for k, v in fields.items() if k not in ("name", "seed")}


def summary(record: Record) -> pd.DataFrame:
    rows = {which: getattr(record, which) for which in ("best", "last")}
    return pd.DataFrame(rows).T[["epoch", *METRICS]].astype({"epoch": int})


def print_json(content: Any) -> None:
    print(json.dumps(content, indent=1))


def terminated(number: int, frame: Any) -> None:
    raise Terminated


class Terminated(KeyboardInterrupt):
    """SIGTERM, which schedulers send before they kill: what was done is kept, as after Ctrl-C."""


def main() -> None:
    signal.signal(signal.SIGTERM, terminated)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a folder's name may be no text
        sys.stdout.reconfigure(errors="backslashreplace")
    if launched() > 1 and sys.argv[1:2] != ["run"]:
        sys.exit("error: torchrun starts several processes, and only `run` shares its work.")
    try:
        with registry():
            app.cli(prog="python -m ccnotes", config=(tyro.conf.CascadeSubcommandArgs,))
        if sys.stdout:  # which `>&-` closes
            sys.stdout.flush()
    except OutOfTime as stopped:
        print(f"{stopped}; the same command, without --fresh, goes on from there", file=sys.stderr)
        sys.exit(STOPPED_IN_TIME)
    except KeyboardInterrupt as interrupt:
        text = "stopped; finished epochs are kept: `run` goes on from there (without --fresh)"
        print(text, file=sys.stderr)
        # What shells make of a process that the signal ends.
        sys.exit(128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT))
    except BrokenPipeError:  # `list | head -1` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, RuntimeError, FloatingPointError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
