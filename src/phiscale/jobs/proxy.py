"""The short training that stands in for the whole one: what the search and the sweeps measure networks by."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from phiscale.architecture import Design, Preprocess
from phiscale.architecture.catalog import rows
from phiscale.architecture.preprocess import HALF
from phiscale.data.find import ImageSet
from phiscale.data.load import ImageCache, open_images, typical_side
from phiscale.jobs.run import scaled_preprocess
from phiscale.search.study import Job, Report, Score
from phiscale.training import Recipe, train
from phiscale.training.recipes import scratch
from phiscale.weights import create_model

Tell = Callable[[str, int, int], None]  # (what, done, total)


def proxy_recipe(images: int, *, epochs: int) -> Recipe:
    """From random weights, one cycle of a high rate in few epochs; averaged weights follow closely, because there are few steps."""
    steps = max(1, images // 32)
    ema_decay = round(max(0.5, 1 - 5 / steps), 4)
    return replace(scratch(images), name="proxy", epochs=epochs, batch=32, ema_decay=ema_decay, drop_path=0.0, clip=0.0)


@dataclass(slots=True, kw_only=True)
class Proxy:
    """An objective of the search: trains a job's design on `images` by `recipe`. Keeps the images decoded for one resolution at a time."""

    images: ImageSet
    recipe: Recipe
    preprocess: Preprocess  # of the baseline
    whole: bool  # crops keep all of the shorter side: the images are no larger than the network's input
    tell: Tell | None = None
    _cached: tuple[int, ImageSet, ImageCache] | None = field(default=None, init=False)

    def __call__(self, job: Job, report: Report) -> Score:
        if job.folder is not None:
            return self.trained(job.point.design, seed=job.seed, folder=job.folder, report=report)
        with tempfile.TemporaryDirectory(prefix="phiscale-") as folder:
            return self.trained(job.point.design, seed=job.seed, folder=Path(folder), report=report)

    def trained(self, design: Design, *, seed: int, folder: Path, report: Report | None = None) -> Score:
        """Train and score one design; goes on from the checkpoint that it finds in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        preprocess = scaled_preprocess(self.preprocess, design, whole=self.whole)
        images, cache = self.decoded(preprocess)
        network = create_model(
            design.with_classes(len(images.classes)), dropout=self.recipe.dropout, drop_path=self.recipe.drop_path,
            bn_momentum=self.recipe.bn_momentum, seed=seed,
        )  # fmt: skip
        outcome = train(
            network, images, recipe=self.recipe, preprocess=preprocess, folder=folder, seed=seed, cache=cache, progress=self.tell,
            judged=report,
        )  # fmt: skip
        return Score(top1=outcome.val.top1, hits=(outcome.val.logits.argmax(1) == outcome.val.labels).numpy())

    def decoded(self, preprocess: Preprocess) -> tuple[ImageSet, ImageCache]:
        if self._cached is None or self._cached[0] != preprocess.crop:
            self._cached = None  # the old ones make room first
            self._cached = (preprocess.crop, *open_images(self.images, preprocess=preprocess))
        return self._cached[1:]


def make_proxy(images: ImageSet, baseline: Design, *, epochs: int, flip: bool = True, tell: Tell | None = None) -> Proxy:
    """The objective for a baseline on a set of images."""
    name = baseline.origin.baseline
    own = rows()[name].preprocess if name in rows() else Preprocess(crop=224, resize=256, mean=HALF, std=HALF)
    recipe = proxy_recipe(len(images.splits["train"]), epochs=epochs)
    recipe = replace(recipe, augment=replace(recipe.augment, flip=flip))
    return Proxy(images=images, recipe=recipe, preprocess=own, whole=typical_side(images) <= baseline.resolution, tell=tell)


def threads(number: int) -> None:
    """How many threads this process computes with."""
    torch.set_num_threads(number)
