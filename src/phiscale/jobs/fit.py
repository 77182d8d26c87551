"""From a folder of images to a measured classifier: budget -> design -> weights -> training -> bundle -> report."""

import json
import os
import shlex
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Unpack

import torch

from phiscale.architecture import Design, Output, Preprocess
from phiscale.architecture.toml import dumps
from phiscale.atomic import as_run_error, sweep, write_text
from phiscale.data.find import ImageSet, fingerprint
from phiscale.data.load import ImageCache, ImageDataset, open_images
from phiscale.deploy.bundle import export_bundle
from phiscale.errors import ArgumentError, RunError, StoppedError
from phiscale.jobs.asked import Asked, new_folder
from phiscale.jobs.changes import Changes
from phiscale.jobs.lock import locked
from phiscale.jobs.noisy_student import TABLE, PseudoLabels, label, read, unlabelled_files, with_labels, write
from phiscale.jobs.noisy_student import targets as pseudo_targets
from phiscale.jobs.plan import Plan, Planner
from phiscale.jobs.run import (
    BUNDLE,
    DESIGN,
    PREDICTIONS,
    RECIPE,
    RUN,
    SKIPPED,
    Run,
    write_predictions,
    write_skipped,
)
from phiscale.jobs.watch import Watcher
from phiscale.report import write_card, write_report
from phiscale.runtime.image import printable
from phiscale.runtime.machine import machine
from phiscale.runtime.transform import normalise
from phiscale.training import Recipe, Scores, evaluate, train
from phiscale.training.compute import Precision
from phiscale.training.imitate import imitate
from phiscale.training.metrics import calibration_error, fit_temperature, many_scores
from phiscale.training.processes import TIMEOUT, Processes, processes
from phiscale.training.stop import Stop
from phiscale.training.teacher import TaughtBy
from phiscale.version import VERSION
from phiscale.weights import create_model
from phiscale.weights.models import Loaded
from phiscale.weights.store import save_model

AFTERWARDS = 10.0  # seconds that --minutes leaves for the bundle and the report: seen 4 to 8 here on an idle machine, 28 on a crowded one
TEACHER = "teacher"  # inside a student's folder: the run that was trained first


def fit(
    images: str | Path,
    *,
    data_root: str | Path | None = None,
    multi_label: bool = False,
    network: str | Path | None = None,
    coefficients: str | Path | None = None,
    macs: str | float | None = None,
    params: str | float | None = None,
    memory: str | float | None = None,
    latency: str | float | None = None,
    runtime: str | None = None,
    weights: str | Path | None = None,
    recipe: str | Path | Recipe | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    batch: int | None = None,
    learning_rate: float | None = None,
    clip: float | None = None,
    patience: int | None = None,
    resolution: int | None = None,
    flip: bool | None = None,
    unlabelled: str | Path | None = None,
    teacher: str | Path | None = None,
    precision: Precision = "auto",
    accumulate: int = 1,
    compile: bool = False,  # noqa: A002  # torch's word
    channels_last: bool = True,
    sync_norms: bool = False,
    tensorboard: bool = False,
    seed: int = 0,
    threads: int | None = None,
    workers: int = 0,
    timeout: float = TIMEOUT,
    out: str | Path | None = None,
    watch: Watcher | None = None,
    **changes: Unpack[Changes],
) -> Run:
    """Train a classifier on `images` within a budget, and write the run folder: weights, bundle, report.

    images      a folder of class folders; or train/ + val/ (+ test/) of them; or a CSV of path,label;
                or a data set by name, such as "cifar10" (all: data/named.py)
    data_root   the folder of data sets by name, which are downloaded into it; None: $PHISCALE_DATA, else a folder of phiscale's cache
    multi_label   images is a CSV of path,labels (`;` or `|` between labels, a line each, or one column a class of 0 and 1):
                each class is a yes or no of its own
    network     a published name or a design file; None: the best of EfficientNet-Lite inside the budget (see jobs/choose.py)
    coefficients  the .toml of a search, or "α,β,γ": grow the network by them, to the budget, or by φ = 1 where there is none
    macs, params, memory, latency   limits, such as "300M", "5M", "64MB", "15ms"; a latency is measured here, of one image, with
    runtime     what predicts: "openvino", "onnxruntime" or "native"; None: the best that is installed
    weights     "auto" (the best published at hand; carried over where the size is nobody's), "none", or a file; None: auto, but
                none for recipes that start from random weights (scratch, paper, v2, ra)
    recipe      a name (training/recipes.py), a .toml file that a run or a person wrote, or a Recipe; None: "finetune" with
                weights, "scratch" without
    changes     fields of the recipe and its parts that shall be otherwise, such as mixup=0.2 or policy="rand" (see Changes)
    unlabelled  a folder of images for the recipe noisy_student
    teacher     noisy_student's first: a finished run, or a network to train; None: the network itself
    minutes     for the whole job, in place of epochs: the recipe's schedule is fitted into what is left of them for training
    batch       images a step, over all processes
    clip, patience   see Recipe; None: the recipe's
    precision, accumulate, compile, channels_last, sync_norms   see Compute
    tensorboard whether losses and norms of every step go to OUT/tensorboard too
    timeout     seconds that processes wait for each other
    resolution  of the network's input; None: the design's own, less where the images are tiny or the budget asks for it
    flip        whether mirror images train too; None: yes, but not for digits
    out         the run folder, new or empty; None: runs/NAME
    Under torchrun the first process writes; the others come back when training is over, before the folder is complete.
    ArgumentError, BudgetError, DataError, WeightsError, RunError: as their names say; nothing half-written stays.
    """
    asked = Asked(
        images=str(images), data_root=_text(data_root), multi_label=multi_label, network=None if network is None else str(network),
        coefficients=None if coefficients is None else str(coefficients), weights=_text(weights),
        recipe=None if isinstance(recipe, Recipe) else _text(recipe), unlabelled=_text(unlabelled), teacher=_text(teacher), epochs=epochs,
        macs=_text(macs), params=_text(params), memory=_text(memory), minutes=minutes, clip=clip, patience=patience,
        latency=_text(latency), runtime=runtime, batch=batch, learning_rate=learning_rate, resolution=resolution,
        flip=flip, precision=precision, accumulate=accumulate, compile=compile, channels_last=channels_last, sync_norms=sync_norms,
        tensorboard=tensorboard, seed=seed, threads=threads, workers=workers, timeout=timeout,
        changes={name: value for name, value in changes.items() if value is not None},
    )  # fmt: skip
    all_processes = processes(timeout)
    folder = all_processes.decide(lambda: new_folder(asked, None if out is None else Path(out)))
    if isinstance(recipe, Recipe):
        asked = replace(asked, recipe=str(folder / RECIPE))  # where it will be
    return _Fit(asked, folder, watch or Watcher(), all_processes, given=recipe if isinstance(recipe, Recipe) else None).run()


def resume(folder: str | Path, *, workers: int | None = None, timeout: float = TIMEOUT, watch: Watcher | None = None) -> Run:
    """Go on with a run that was interrupted, as if it had not been; a finished run is given back as it is.

    workers: other than before, as their number changes nothing; None: as before. timeout: as for `fit`.
    """
    all_processes = processes(timeout)
    about = all_processes.decide(lambda: Run(Path(folder)).about)
    if about.get("status") == "done":
        return Run(Path(folder), here=all_processes.main)
    try:
        asked = Asked(**about["asked_exactly"])
    except (KeyError, TypeError):
        raise RunError(f"{Path(folder) / RUN} does not say what was asked, so it can't be resumed; start again in another folder") from None
    return _Fit(asked, Path(folder), watch or Watcher(), all_processes, resumed=about, workers=workers).run()


class _Fit:
    def __init__(
        self,
        asked: Asked,
        folder: Path,
        watch: Watcher,
        all_processes: Processes,
        *,
        given: Recipe | None = None,
        resumed: dict[str, Any] | None = None,
        workers: int | None = None,
    ) -> None:
        self.workers = asked.workers if workers is None else workers
        self.asked, self.folder, self.processes, self.resumed = asked, folder, all_processes, resumed
        self.watch = watch if all_processes.main else Watcher()
        self.planner = Planner(asked, folder, self.watch.say, processes=all_processes.count, given=given, resumed=resumed)
        self.begun = resumed is not None
        self.seconds: dict[str, float] = {}
        self.started = self.last = time.perf_counter()

    def run(self) -> Run:
        """The whole job. Where a signal ends it, the error says how to go on."""
        with ExitStack() as held, Stop() as self.stop:
            try:
                if self.resumed is not None and self.processes.main:
                    held.enter_context(locked(self.folder))
                    sweep(self.folder)
                with self.processes.together():
                    self.work(held)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"interrupted; {self.left}") from None
            except StoppedError as stopped:
                raise StoppedError(f"{stopped}; {self.left}") from None
        return Run(self.folder, here=self.processes.main)

    @property
    def go_on(self) -> str:
        """The command that goes on with this run."""
        count = self.processes.count
        start = "phiscale" if count == 1 else f"torchrun --nproc-per-node {count} -m phiscale"  # of one machine
        return f"{start} fit --resume {shlex.quote(printable(str(self.folder)))}"

    @property
    def left(self) -> str:
        return f"go on with: {self.go_on}" if self.begun else "nothing was written"

    def work(self, held: ExitStack) -> None:
        """All steps, of which the first process alone writes; `held` until the end: the folder's lock."""
        found, cache, plan = self.ready()
        design, preprocess, recipe, network = plan.design, plan.preprocess, plan.recipe, plan.network
        if self.processes.main:
            self.begin(found, plan, held)
        self.begun = True
        if recipe.imitate:
            body = self.processes.decide(lambda: self.imitated(plan, found, cache))
            network.load_state_dict(network.state_dict() | body)
            self.clock("imitate")
        targets = None
        if recipe.pseudo.rounds:
            labels = self.pseudo_labels(found, plan)
            found, cache = open_images(with_labels(found, labels), preprocess=preprocess)
            self.check_same(found)
            targets = pseudo_targets(found.splits["train"], labels, len(found.classes))
            if self.processes.main:
                self.about["pseudo_labels"] = self.about_pseudo_labels(labels, recipe, found)
            self.clock("teacher")
        outcome = train(
            network, found, recipe=recipe, compute=plan.compute, preprocess=preprocess, folder=self.folder, seed=self.asked.seed,
            seconds=self.seconds_to_train(), cache=cache, workers=self.workers, processes=self.processes, stop=self.stop,
            tensorboard=self.asked.tensorboard, targets=targets, teacher=plan.teacher, progress=self.watch.progress, say=self.watch.say,
        )  # fmt: skip
        self.clock("train")
        if not self.processes.main:
            return
        parts = [("val", [item.path for item in found.splits["val"]], outcome.val)]
        if "test" in found.splits:
            tested = evaluate(network, ImageDataset(found, "test", preprocess=preprocess, cache=cache), tell=self.watch.progress)
            parts.append(("test", [item.path for item in found.splits["test"]], tested))
        output = self.calibrated(outcome.val, multi_label=found.multi_label)
        write_predictions(self.folder / PREDICTIONS, parts, found.classes, output)
        save_model(self.folder, model_or_state=outcome.state, design=design, preprocess=preprocess, labels=found.classes, output=output)
        self.clock("evaluate")
        self.watch.say("writing the bundle, and measuring it against PyTorch")
        self.export(found, design, preprocess, output, outcome.state, cache)
        self.clock("export")
        self.finish({"epoch": outcome.epoch, "stage": outcome.stage}, parts, output)

    def ready(self) -> tuple[ImageSet, ImageCache, Plan]:
        """Everything up to the first step, nothing of it written. What is read from files but the images, the first process reads."""
        threads = self.resumed.get("threads") if self.resumed is not None else self.asked.threads
        if threads:  # more or fewer would add in another order
            torch.set_num_threads(threads)
        # one process lays a data set by name out, the others find it
        found = self.processes.decide(lambda: self.planner.find(self.watch.progress))
        plan = self.processes.decide(lambda: self.planner.plan(found))
        found, cache = self.planner.open(found, plan.preprocess, self.watch.progress)
        self.check(found)
        self.clock("data")
        return found, cache, plan

    def seconds_to_train(self) -> float | None:
        """What is left of the minutes that were asked for, but for the bundle and the report; None where none were."""
        if self.asked.minutes is None:
            return None
        asked = self.asked.minutes * 60
        return max(1.0, asked - (time.perf_counter() - self.started) - min(AFTERWARDS * crowd(), asked / 3))

    # --- before training -------------------------------------------------------------------------

    def check(self, found: ImageSet) -> None:
        if self.resumed is not None and self.resumed.get("data", {}).get("fingerprint") != fingerprint(found):
            raise RunError(
                f"the images of {self.asked.images} are no longer those that {self.folder} was started on; start again in another folder"
            )
        self.check_same(found)

    def check_same(self, found: ImageSet) -> None:
        """RunError where this process found other images than the first, as on a machine whose copy of them is not the same."""
        own = fingerprint(found) if self.processes.count > 1 else ""
        if self.processes.decide(lambda: own) != own:
            raise RunError(
                f"process {self.processes.rank} of {self.processes.count} reads other images in {self.asked.images} than the first one; "
                "each machine needs the same files under the same paths"
            )

    def begin(self, found: ImageSet, plan: Plan, held: ExitStack) -> None:
        if self.resumed is None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(self.folder))
            except OSError as error:
                raise as_run_error(error, self.folder.parent) from error
            if (self.folder / RUN).exists():
                raise ArgumentError(f"another process has just begun a run in {self.folder}; name another folder with -o")
        self.about = {
            "phiscale": VERSION,
            "status": "running",
            "created": (self.resumed or {}).get("created") or datetime.now(UTC).isoformat(timespec="seconds"),
            "command": self.asked.command,
            "asked": {
                "images": self.asked.images,
                "network": self.asked.network,
                "budget": str(self.planner.budget) if self.planner.budget else "",
                "runtime": self.planner.runtime,
                "epochs": plan.recipe.epochs,
                "recipe": plan.recipe.name,
                "weights": plan.weights or "none",
            },
            "asked_exactly": asdict(self.asked),
            "seed": self.asked.seed,
            "threads": torch.get_num_threads(),
            "precision": plan.compute.precision,
            "designed_ms": plan.designed_ms,
            "processes": self.processes.count,
            "network": plan.design.name,
            "weights": weights_about(plan.loaded),
            "machine": machine(),
            "versions": {name: version(name) for name in ("torch", "torchvision", "accelerate", "numpy", "pillow", "onnxruntime")},
            "data": {
                "source": self.asked.images,
                "classes": len(found.classes),
                "counts": {split: len(items) for split, items in found.splits.items()},
                "skipped": len(found.skipped),
                "notes": list(found.notes),
                "fingerprint": fingerprint(found),
            },
        }
        self.write_about()  # first: with it the run can be gone on with
        write_text(self.folder / DESIGN, plan.design.to_toml())
        write_text(self.folder / RECIPE, dumps(plan.recipe.to_dict()))
        write_skipped(self.folder / SKIPPED, found.skipped)
        self.watch.began(self.folder)

    def imitated(self, plan: Plan, found: ImageSet, cache: ImageCache) -> dict[str, torch.Tensor]:
        """All weights but the classifier's, after those that were cut learned from the network they were cut from, on the images at
        hand, in its own classes; none where a checkpoint has them."""
        if any((self.folder / "checkpoint").glob("*.pt")):
            return {}
        record, recipe, preprocess = plan.loaded.record if plan.loaded is not None else None, plan.recipe, plan.preprocess
        assert record is not None  # Planner.recipe_as_asked
        self.watch.say(f"learning from {record.name} for {recipe.imitate} steps")
        whole = create_model(plan.network.spec.with_classes(record.num_classes), weights=plan.weights)
        source = TaughtBy(model=create_model(record.network, weights=record).eval(), preprocess=preprocess, student=preprocess)
        varied = ImageDataset(found, "train", preprocess=preprocess, augment=recipe.augment, seed=self.asked.seed, cache=cache)
        imitate(whole, source, varied, steps=recipe.imitate, tell=self.watch.progress)
        return {key: value for key, value in whole.state_dict().items() if not key.startswith("classifier.")}

    def pseudo_labels(self, found: ImageSet, plan: Plan) -> PseudoLabels:
        """A teacher's labels for the unlabelled images: what the folder has of them, else of a teacher that is trained first."""
        table = self.folder / TABLE
        if not self.processes.decide(table.is_file):
            teacher = self.teacher(plan)
            if self.processes.main and Run(teacher).design.cost.params > plan.design.cost.params:
                self.watch.say(f"the teacher {teacher} is larger than its student, which Noisy Student's are not")
            files = self.processes.decide(lambda: unlabelled_files(Path(self.asked.unlabelled or ""), found))
            labels = label(
                teacher, files, classes=found.classes, how=plan.recipe.pseudo, processes=self.processes,
                progress=lambda done, total: self.watch.progress("labelling", done, total),
            )  # fmt: skip
            sure = sum(times > 0 for times in labels.times)
            self.watch.say(f"the teacher {teacher} is sure of {sure} of {len(labels.files)} images without labels")
            if self.processes.main:
                write(table, labels, found.classes)
        return self.processes.decide(lambda: read(table, found.classes))

    def about_pseudo_labels(self, labels: PseudoLabels, recipe: Recipe, found: ImageSet) -> dict[str, Any]:
        """What run.json says of them."""
        given = self.given_teacher(recipe)
        folder = given or self.folder / TEACHER
        taught = Run(folder).about if (folder / RUN).is_file() else {}  # a named one may have gone since
        return {
            "source": self.asked.unlabelled,
            "teacher": str(given) if given else TEACHER,
            "teacher_network": taught.get("network"),
            "teacher_result": taught.get("result"),
            "classes": labels.counts(found.classes),
        }

    def given_teacher(self, recipe: Recipe) -> Path | None:
        """The finished run that was named as the teacher, where one was; only the first student's."""
        name = self.asked.teacher
        return Path(name) if recipe.pseudo.rounds == 1 and name is not None and (Path(name) / RUN).is_file() else None

    def teacher(self, plan: Plan) -> Path:
        """The run whose labels this student learns from: one that was named, or one inside this folder, trained first."""
        recipe = plan.recipe
        if given := self.processes.decide(lambda: self.given_teacher(recipe)):
            return given
        first, named_one = recipe.pseudo.rounds == 1, self.asked.teacher
        folder, watch = self.folder / TEACHER, _Nested(self.watch, "teacher: ")
        if self.processes.decide((folder / RUN).is_file):
            return resume(folder, workers=self.asked.workers, watch=watch).folder
        network = named_one if first and named_one is not None else str(self.folder / DESIGN)
        asked = replace(
            self.asked, network=network, coefficients=None, macs=None, params=None, memory=None, latency=None, resolution=None,
            recipe=None, unlabelled=None if first else self.asked.unlabelled, teacher=None if first else named_one, changes={},
            precision=plan.compute.precision,
        )  # fmt: skip
        given = None if first else replace(recipe, pseudo=replace(recipe.pseudo, rounds=recipe.pseudo.rounds - 1))
        return _Fit(asked, folder, watch, self.processes, given=given).run().folder

    # --- after training --------------------------------------------------------------------------

    def calibrated(self, val: Scores, *, multi_label: bool) -> Output:
        """What becomes of the logits: with the temperature that suits the validation images."""
        output = Output(multi_label=multi_label, temperature=fit_temperature(val))
        before, after = calibration_error(val), calibration_error(val, output)
        self.watch.say(f"temperature {output.temperature:.3g}, fitted on val: calibration error {before:.1%} before, {after:.1%} after")
        return output

    def export(
        self, found: ImageSet, design: Design, preprocess: Preprocess, output: Output, state: dict[str, torch.Tensor], cache: Any
    ) -> None:
        val = ImageDataset(found, "val", preprocess=preprocess, cache=cache)
        some = torch.stack([val[0, index][0] for index in range(min(8, len(val)))]).permute(0, 2, 3, 1).numpy()
        reference = torch.stack([torch.from_numpy(normalise(pixels, preprocess)) for pixels in some]).numpy()
        arrays = {key: value.numpy() for key, value in state.items()}
        export_bundle(
            self.folder / BUNDLE, design=design, state=arrays, preprocess=preprocess, labels=found.classes, output=output,
            reference=reference,
        )  # fmt: skip

    def finish(self, best: dict[str, Any], parts: list[tuple[str, list[Path], Scores]], output: Output) -> None:
        for split, _, scores in parts:
            about = {"split": split, "top1": scores.top1, "top5": scores.top5, "loss": scores.loss, "n": scores.n} | best
            about |= {"ece": calibration_error(scores, output), "ece_before": calibration_error(scores)}
            if scores.many is not None:
                about |= asdict(many_scores(scores.logits, scores.labels, output))
            self.about["result" if split == "val" else "test"] = about
        self.about["output"] = output.to_dict()
        self.about["seconds"] = {name: round(value, 2) for name, value in self.seconds.items()}
        self.about["seconds"]["total"] = round(time.perf_counter() - self.started, 2)
        self.write_about()
        write_report(self.folder)
        write_card(self.folder)
        self.about["status"] = "done"  # last: what was begun after it would not be gone on with
        self.write_about()

    def write_about(self) -> None:
        text = json.dumps(self.about, indent=1, ensure_ascii=False) + "\n"
        write_text(self.folder / RUN, text.encode("utf-8", "backslashreplace").decode())  # odd bytes of names as JSON escapes

    def clock(self, what: str) -> None:
        now = time.perf_counter()
        self.seconds[what], self.last = now - self.last, now


class _Nested(Watcher):
    """Tells what a run inside another does; the outer one is what can be gone on with."""

    def __init__(self, outer: Watcher, name: str) -> None:
        self.outer, self.name = outer, name

    def say(self, text: str) -> None:
        self.outer.say(self.name + text)

    def progress(self, what: str, done: int, total: int) -> None:
        self.outer.progress(self.name + what, done, total)


def weights_about(loaded: Loaded | None) -> dict[str, Any] | None:
    """What run.json says of the weights that training started from."""
    if loaded is None:
        return None
    inherited = {"inherited": str(loaded.inheritance)} if loaded.inheritance is not None else {}
    record = loaded.record
    if record is None:
        return {"name": loaded.source, "source": loaded.source, "top1": None}
    about = {
        "name": record.network,
        "source": record.name,
        "top1": record.top1,
        "licence": record.licence,
        "data": record.training_data,
    }
    return about | inherited


def crowd() -> float:
    """How many times as long things take because others compute here too: waiting processes a core, at least 1."""
    try:
        return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    except (OSError, AttributeError):  # not told here
        return 1.0


def _text(amount: str | float | Path | None) -> str | None:
    return None if amount is None else str(amount)
