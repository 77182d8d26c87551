"""What `fit` is going to do, before any of it is done: design, recipe, and the weights that training starts from."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from phiscale.architecture import Design, Preprocess
from phiscale.architecture.catalog import rows
from phiscale.cost import Budget
from phiscale.cost.memory import training_bytes
from phiscale.data.find import ImageSet, find_images
from phiscale.data.load import ImageCache, open_images, typical_side
from phiscale.errors import ArgumentError
from phiscale.jobs.asked import Asked
from phiscale.jobs.choose import choose_design, keeps, latency_ms, scaled_design
from phiscale.jobs.run import DESIGN, RECIPE, scaled_preprocess
from phiscale.kernels import status
from phiscale.nn import Network
from phiscale.runtime.engines import choose
from phiscale.runtime.fold import check_foldable
from phiscale.runtime.image import printable
from phiscale.runtime.machine import free_bytes
from phiscale.training import Compute, Progress, Recipe
from phiscale.training.objective import Teacher
from phiscale.training.recipes import named, read_recipe
from phiscale.training.teacher import load_teacher
from phiscale.weights import create_model
from phiscale.weights.models import Loaded, load_weights

FLIP_HURTS = ("digits",)  # sets in which a mirror image is another thing
SOURCE = "source"  # of `--distill`: the network that inherited weights came from
IMITATED = 120  # steps of it, unless `imitate` says otherwise: what one trial was best served by (docs/recipes.md)
RECONSIDERED = 2  # times, at most, a design that doesn't keep the latency when it is measured again
LEAST = 0.4  # of the estimate of training's memory: what bfloat16 and frozen stages may spare


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a training starts from."""

    design: Design
    preprocess: Preprocess
    recipe: Recipe
    network: Network
    teacher: Teacher | None
    weights: str | None  # a name or file; None: random
    loaded: Loaded | None
    compute: Compute
    designed_ms: float | None  # of the design, where a latency was asked for


class Planner:
    """Makes a Plan of what was asked; of a run that is gone on with (`resumed`, its run.json), the one that its folder holds."""

    def __init__(
        self,
        asked: Asked,
        folder: Path,
        say: Callable[[str], None],
        *,
        processes: int = 1,
        given: Recipe | None = None,
        resumed: dict[str, Any] | None = None,
    ) -> None:
        self.asked, self.folder, self.say, self.processes, self.given, self.resumed = asked, folder, say, processes, given, resumed
        self.runtime = None if asked.runtime is None else choose(asked.runtime)
        self.budget = Budget.parse(macs=asked.macs, params=asked.params, memory=asked.memory, latency=asked.latency)
        if asked.minutes is not None and not (asked.epochs is None and 0 < asked.minutes < 1e6):
            raise ArgumentError(f"--minutes must be more than 0, and takes the place of --epochs; got {asked.minutes} and {asked.epochs}")
        self.compute = Compute(
            precision=(resumed or {}).get("precision", asked.precision), accumulate=asked.accumulate, compile=asked.compile,
            channels_last=asked.channels_last, sync_norms=asked.sync_norms,
        )  # fmt: skip
        self.designed_ms: float | None = None
        self.loaded: Loaded | None = None

    def find(self, tell: Progress) -> ImageSet:
        """The images that were asked for."""
        asked = self.asked
        found = find_images(asked.images, seed=asked.seed, multi_label=asked.multi_label, data_root=asked.data_root, tell=tell)
        for note in found.notes:
            self.say(note)
        return found

    def open(self, found: ImageSet, preprocess: Preprocess, tell: Progress) -> tuple[ImageSet, ImageCache]:
        """Those that can be read, decoded."""
        found, cache = open_images(found, preprocess=preprocess, progress=lambda done, total: tell("reading", done, total))
        if found.skipped:
            first = found.skipped[0]
            self.say(f"left out {len(found.skipped)} files that can't be used, e.g. {printable(first.path.name)}: {first.message}")
        return found, cache

    def plan(self, found: ImageSet) -> Plan:
        """What is trained on `found`, how, and from which weights. Nothing is written."""
        self.loaded = self.designed_ms = None
        compute, why = self.compute.decided()
        design, whole = self.design(found)
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "torch.compile" if compute.compile else status()
        self.say(f"training: {device}; {compute.precision}: {why if self.resumed is None else 'as it was begun'}")
        recipe = self.recipe(len(found.splits["train"]), design)
        weights = self.weights(recipe)
        self.load(design, weights)
        preprocess = scaled_preprocess(self.normalisation(design), design, whole=whole)
        recipe = self.recipe_as_asked(recipe)
        if bool(recipe.pseudo.rounds) != (self.asked.unlabelled is not None):
            raise ArgumentError("the recipe noisy_student and --unlabelled FOLDER, its images without labels, need each other")
        if recipe.pseudo.rounds and self.asked.minutes is not None:
            raise ArgumentError("--minutes are for one training, and noisy_student is several; give --epochs")
        self.check_memory(design, min(recipe.batch, len(found.splits["train"])))
        network = create_model(
            design, num_classes=len(found.classes), dropout=recipe.dropout, drop_path=recipe.drop_path, bn_momentum=recipe.bn_momentum,
            weights=weights, seed=self.asked.seed,
        )  # fmt: skip
        design = replace(design, spec=network.spec)
        taught_by = load_teacher(recipe.loss.distill, classes=found.classes, preprocess=preprocess) if recipe.loss.distill else None
        return Plan(
            design=design, preprocess=preprocess, recipe=recipe, network=network, teacher=taught_by, weights=weights, loaded=self.loaded,
            compute=compute, designed_ms=self.designed_ms,
        )  # fmt: skip

    def design(self, found: ImageSet) -> tuple[Design, bool]:
        """What to train, and whether the images are so small that all of them is looked at."""
        side, classes, said = typical_side(found), len(found.classes), list[str]()
        if self.resumed is not None and (self.folder / DESIGN).is_file():
            design = Design.read(self.folder / DESIGN)  # a latency measured again could choose another
            self.designed_ms = self.resumed.get("designed_ms")
        else:
            most = 1e3 * (self.budget.latency or math.inf)
            design, said = self.chosen(side, classes)
            for _ in range(0 if self.asked.resolution else RECONSIDERED):
                if (self.designed_ms or 0) > most:  # the machine has slowed down, which a new search sees
                    design, said = self.chosen(side, classes)
            if self.asked.resolution and self.budget and (not keeps(design, self.budget) or (self.designed_ms or 0) > most):
                raise ArgumentError(
                    f"{design.name} at {design.resolution} px does not keep {self.budget}; lower --resolution or leave it out"
                )
        if self.designed_ms is not None:
            limit = 1e3 * (self.budget.latency or 0)
            busy = ": more than was asked, after all; this machine is busy with something else" if self.designed_ms > limit else ""
            said = [*said, f"latency: {self.designed_ms:.3g} ms measured, of {limit:g} ms{busy}"]
        for line in said:
            self.say(line)
        check_foldable(design.spec)  # or there would be no bundle in the end
        cost = design.cost
        self.say(f"network: {design.name}, {design.resolution} px, {cost.macs / 1e6:,.0f}M MACs, {cost.params / 1e6:.2f}M params")
        return design.with_classes(classes), side * 2 <= design.resolution

    def chosen(self, side: int, classes: int) -> tuple[Design, list[str]]:
        """The design that was asked for, for images of `side` pixels, and what to say about it. A latency in the budget is measured
        once more, on what the bundle will be."""
        small, named, runtime = 0 if self.asked.resolution else side, self.asked.network, self.runtime
        if self.asked.coefficients is not None:
            design, said = scaled_design(self.asked.coefficients, named, self.budget, typical_side=small, runtime=runtime)
        else:
            design, said = choose_design(named, self.budget, typical_side=small, runtime=runtime)
        design = design.at(self.asked.resolution) if self.asked.resolution else design
        if self.budget.latency is not None:
            self.designed_ms = latency_ms(design.with_classes(classes), runtime)
        return design, said

    def weights(self, recipe: Recipe) -> str | None:
        """A name or file; None: random."""
        asked = self.asked.weights or ("none" if recipe.from_random else "auto")
        return None if asked == "none" else asked

    def load(self, design: Design, weights: str | None) -> None:
        """The weights without the classifier, for what is known of them."""
        if weights is not None:
            self.loaded = load_weights(create_model(design.with_classes(0)), weights)
            if self.loaded.inheritance is not None:
                self.say(f"weights {self.loaded.inheritance}")

    def normalisation(self, design: Design) -> Preprocess:
        """What the weights were trained with, where their record says; else as the network was published."""
        if self.loaded is not None and self.loaded.preprocess is not None:
            return self.loaded.preprocess
        name = design.origin.baseline
        own = rows()[name].preprocess if name in rows() else Preprocess(crop=design.resolution, resize=round(design.resolution / 0.875))
        if self.loaded is not None:
            self.say(
                f"{self.loaded.source} does not say how its images were normalised; taken as {name} was published: "
                f"mean {own.mean}, std {own.std}"
            )
        return own

    def check_memory(self, design: Design, batch: int) -> None:
        """ArgumentError where this machine can't train the design at this batch, whatever is spared; nothing has been allocated then."""
        batch = max(1, batch // (self.compute.accumulate * self.processes))
        needed = LEAST * training_bytes(design.spec, design.resolution, batch)
        free = float(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else free_bytes()
        if needed > free:
            raise ArgumentError(
                f"training {design.name} at {design.resolution} px takes at least {needed / 1e9:,.1f} GB for {batch} images at a time, and "
                f"{free / 1e9:,.1f} GB are free; lower --batch, --resolution or the budget, or raise --accumulate"
            )

    def recipe(self, images: int, design: Design) -> Recipe:
        """The one that was named, as it stands there."""
        pretrained, asked = self.asked.weights != "none", self.asked.recipe or ("scratch" if self.asked.weights == "none" else "finetune")
        if self.given is not None:
            return self.given
        if asked.endswith(".toml"):
            return read_recipe(Path(asked), images, design, pretrained=pretrained)
        recipe = named(asked, images, design, pretrained=pretrained)
        return recipe.changed({"flip": False}) if self.asked.images in FLIP_HURTS else recipe

    def recipe_as_asked(self, recipe: Recipe) -> Recipe:
        """With what these weights need, and what was asked for otherwise; of a resumed run as it was written."""
        if self.resumed is not None and (self.folder / RECIPE).is_file():
            return read_recipe(self.folder / RECIPE, 0)
        how = self.loaded.inheritance if self.loaded else None
        if how is not None and not how.exact:  # what was cut away shifted every statistic, and all layers have to make up for it
            recipe = replace(recipe, adapt_norms=True, frozen_stages=-1)
        given = {name: getattr(self.asked, name) for name in ("epochs", "batch", "learning_rate", "clip", "patience", "flip")}
        changes = dict(self.asked.changes)
        if changes.get("distill") == SOURCE:
            changes = {"imitate": IMITATED} | {name: value for name, value in changes.items() if name != "distill"}
        recipe = recipe.changed({name: value for name, value in given.items() if value is not None} | changes)
        if recipe.imitate and (how is None or self.loaded is None or self.loaded.record is None):
            raise ArgumentError("--distill source and --imitate are for weights that are carried over from another size; these aren't")
        if recipe.adversary.iterations and self.asked.sync_norms:
            raise ArgumentError("adversaries have batch norms of their own in each process; leave --sync-norms out")
        if not self.asked.multi_label:
            return recipe
        if recipe.adversary.iterations or recipe.sampling == "balanced" or self.asked.unlabelled is not None:
            raise ArgumentError("adversaries, balanced sampling and pseudo-labels need one label an image; --multi-label goes without")
        return recipe.changed({"loss": "bce"})
