"""The loop: probe, then epochs of fine-tuning; the best by validation is kept.

What a step sees depends on (seed, epoch, step) alone: the order, the augmentation and the random numbers inside the model.
So a run that was killed goes on from its checkpoint as if nothing had happened.
"""

import csv
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from phiscale.architecture import Preprocess
from phiscale.atomic import write_text
from phiscale.data.find import ImageSet
from phiscale.data.load import ImageCache, ImageDataset, make_loader, mix
from phiscale.data.transform import normalise
from phiscale.errors import DivergedError, RunError
from phiscale.kernels import accelerate, freeze_norms, restore, unfreeze_norms
from phiscale.nn import Network
from phiscale.training import checkpoint
from phiscale.training.ema import Ema
from phiscale.training.metrics import Scores, scores
from phiscale.training.probe import fit_probe
from phiscale.training.recipe import Recipe

Progress = Callable[[str, int, int], None]  # (what, done, total), total in images
Judged = Callable[[int, float], None]  # (epochs done, validation top-1); may raise to end the training there
METRICS = ("epoch", "stage", "lr", "train_loss", "train_top1", "val_loss", "val_top1")
TIMINGS = ("epoch", "images_per_second", "seconds")
CHECKPOINT_SECONDS = 600.0  # inside long epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The best epoch by validation top-1 (then loss): its weights under phiscale's names, and its scores. Epoch 0 is the probe."""

    state: dict[str, Tensor]
    epoch: int
    stage: str
    val: Scores


@dataclass(slots=True, kw_only=True)
class _Best:
    top1: float = -1.0
    loss: float = float("inf")
    epoch: int = 0
    stage: str = ""
    state: dict[str, Tensor] | None = None


def train(
    model: Network,
    images: ImageSet,
    *,
    recipe: Recipe,
    preprocess: Preprocess,
    folder: Path,
    seed: int = 0,
    cache: ImageCache | None = None,
    workers: int = 0,
    progress: Progress | None = None,
    judged: Judged | None = None,
) -> Outcome:
    """Train `model` (its classifier sized for the images' classes) and give back the best by validation.

    Writes metrics.csv, timings.csv and checkpoint/ in `folder`; goes on from the checkpoint that it finds there.
    `judged` hears of every epoch, those before the checkpoint too.
    RunError where the loss is no longer a number, or the disk is full.
    """
    return _Training(model, images, recipe, preprocess, folder, seed, cache, workers, progress or _silent, judged).run()


def _silent(what: str, done: int, total: int) -> None:
    del what, done, total


class _Training:
    """One training: what changes from step to step, and the order in which it does."""

    def __init__(
        self,
        model: Network,
        images: ImageSet,
        recipe: Recipe,
        preprocess: Preprocess,
        folder: Path,
        seed: int,
        cache: ImageCache | None,
        workers: int,
        tell: Progress,
        judged: Judged | None,
    ) -> None:
        self.recipe, self.preprocess, self.folder, self.seed, self.tell = recipe, preprocess, folder, seed, tell
        self.judged = judged
        self.accelerator = Accelerator()
        self.train_set = ImageDataset(images, "train", preprocess=preprocess, augment=recipe.augment, seed=seed, cache=cache)
        self.plain_train_set = ImageDataset(images, "train", preprocess=preprocess, seed=seed, cache=cache)
        self.val_set = ImageDataset(images, "val", preprocess=preprocess, cache=cache)
        self.loader = make_loader(self.train_set, batch=recipe.batch, shuffle=True, workers=workers)
        self.network = model.to(self.accelerator.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        accelerate(self.network)
        if recipe.freeze_norms:
            freeze_norms(self.network)
        self.best = _Best()
        self.rows: list[dict[str, Any]] = []
        self.timings: list[dict[str, Any]] = []
        self.epoch, self.step = 0, 0  # epochs done; steps done inside the current one
        self.sums = [0.0, 0.0, 0.0]  # of the current epoch: loss, right answers, images

    # --- the course of a run ---------------------------------------------------------------------

    def run(self) -> Outcome:
        saved = checkpoint.load(self.folder / "checkpoint")
        if saved is None:
            if self.recipe.adapt_norms:
                self.adapt_norms()
            if self.recipe.probe:
                self.probe()
        self.prepare()
        if saved is not None:
            self.restore(saved)
        else:
            self.save()
        for row in self.rows:
            self.tell_judged(row)
        while self.epoch < self.recipe.epochs:
            self.one_epoch()
            self.tell_judged(self.rows[-1])
        restore(unfreeze_norms(self.network))
        state = self.best.state
        if state is None:
            raise RunError(f"{self.folder}/checkpoint holds no trained weights; start again in another folder")
        self.network.load_state_dict(state)
        self.network.eval()
        val = evaluate(self.network, self.val_set, tell=self.tell)
        return Outcome(state=state, epoch=self.best.epoch, stage=self.best.stage, val=val)

    def prepare(self) -> None:
        if self.recipe.frozen_stages >= 0:
            for part in (self.network.stem, *self.network.stages[: self.recipe.frozen_stages]):
                part.requires_grad_(False)
        head = [p for name, p in self.network.named_parameters() if name.startswith("classifier.")]
        body = [p for name, p in self.network.named_parameters() if p.requires_grad and not name.startswith("classifier.")]
        rate = self.recipe.learning_rate
        groups = [{"params": body, "lr": rate * self.recipe.body_rate}, {"params": head, "lr": rate}]
        optimizer = make_optimizer(self.recipe, groups)
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.ema = Ema(self.network, self.recipe.ema_decay) if self.recipe.ema_decay else None
        self.model, self.optimizer = self.accelerator.prepare(self.network, optimizer)

    def one_epoch(self) -> None:
        started, first = time.perf_counter(), self.step
        batches: Any = self.loader.batch_sampler
        batches.epoch, batches.first = self.epoch, 0
        steps = len(batches)
        batches.first = self.step
        total, last_saved = len(self.train_set), time.perf_counter()
        self.network.train()
        for pixels, labels, _ in self.loader:
            self.one_step(pixels, labels, self.epoch * steps + self.step, steps * self.recipe.epochs)
            self.step += 1
            self.tell(f"epoch {self.epoch + 1}/{self.recipe.epochs}", min(self.step * self.recipe.batch, total), total)
            if time.perf_counter() - last_saved > CHECKPOINT_SECONDS:
                self.save()
                last_saved = time.perf_counter()
        seconds = time.perf_counter() - started
        self.epoch, self.step = self.epoch + 1, 0
        loss, right, n = self.sums
        self.sums = [0.0, 0.0, 0.0]
        speed = (total - first * self.recipe.batch) / seconds
        self.timings.append({"epoch": self.epoch, "images_per_second": round(speed, 2), "seconds": round(seconds, 3)})
        self.judge("train" if not self.recipe.probe else "finetune", loss / n, right / n)
        self.save()

    def one_step(self, pixels: Tensor, labels: Tensor, number: int, of: int) -> None:
        torch.manual_seed(mix(self.seed, number))  # dropout and drop-path
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.recipe.rate(number, of)
        images = to_input(pixels, self.preprocess, self.accelerator.device)
        labels = labels.to(self.accelerator.device)
        logits = self.model(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        if not torch.isfinite(loss):
            rate = self.optimizer.param_groups[-1]["lr"]
            where = f"epoch {self.epoch + 1}, step {self.step + 1}, learning rate {rate:.3g}"
            raise DivergedError(f"the loss is {loss.item()} ({where}); nothing was kept of this step; lower --learning-rate")
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.network)
        self.sums[0] += loss.item() * len(labels)
        self.sums[1] += int((logits.argmax(1) == labels).sum())
        self.sums[2] += len(labels)

    # --- before the first step -------------------------------------------------------------------

    @torch.no_grad()
    def adapt_norms(self) -> None:
        """Batch norm statistics of up to 1,024 training images, measured anew."""
        norms = [m for m in self.network.modules() if isinstance(m, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        unfreeze_norms(self.network).train()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
        order = torch.randperm(len(self.plain_train_set), generator=torch.Generator().manual_seed(mix(self.seed)))[:1024].tolist()
        for start in range(0, max(1, len(order) - 31), 32):
            pixels = torch.stack([self.plain_train_set[0, index][0] for index in order[start : start + 32]])
            self.network(to_input(pixels, self.preprocess, self.accelerator.device))
            self.tell("adapting", min(start + 32, len(order)), len(order))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        if self.recipe.freeze_norms:
            freeze_norms(self.network)

    def probe(self) -> None:
        """The classifier that a convex fit on the frozen features gives; epoch 0 of the run."""
        mirrored = self.recipe.augment.flip and len(self.plain_train_set) < 2000
        features, labels = _features(self.network, self.plain_train_set, mirrored=mirrored, tell=self.tell)
        weight, bias = fit_probe(features, labels, self.network.spec.num_classes, label_smoothing=self.recipe.label_smoothing)
        with torch.no_grad():
            self.network.classifier.weight.copy_(weight)
            self.network.classifier.bias.copy_(bias)
            logits = features @ weight.T + bias
        self.ema = None
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing).item()
        self.judge("probe", loss, (logits.argmax(1) == labels).double().mean().item())

    # --- after an epoch --------------------------------------------------------------------------

    def judge(self, stage: str, train_loss: float, train_top1: float) -> None:
        judged: Any = self.ema.average if self.ema is not None else self.network
        val = evaluate(judged, self.val_set, tell=self.tell)
        judged.train(judged is self.network)
        lr = self.optimizer.param_groups[-1]["lr"] if self.epoch else 0.0
        numbers = (lr, train_loss, train_top1, val.loss, val.top1)
        self.rows.append(dict(zip(METRICS, (self.epoch, stage, *(f"{number:.6g}" for number in numbers)), strict=True)))
        if (val.top1, -val.loss) > (self.best.top1, -self.best.loss):
            state = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in judged.state_dict().items()}
            self.best = _Best(top1=val.top1, loss=val.loss, epoch=self.epoch, stage=stage, state=state)
        if self.accelerator.is_main_process:
            write_text(self.folder / "metrics.csv", _csv(METRICS, self.rows))
            write_text(self.folder / "timings.csv", _csv(TIMINGS, self.timings))

    def tell_judged(self, row: dict[str, Any]) -> None:
        if self.judged is not None:
            self.judged(int(row["epoch"]), float(row["val_top1"]))

    def save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        state = {
            "recipe": repr(self.recipe),
            "seed": self.seed,
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums,
            "rows": self.rows,
            "timings": self.timings,
            "network": self.network.state_dict(),
            "ema": self.ema.average.state_dict() if self.ema else None,
            "ema_updates": self.ema.updates if self.ema else 0,
            "optimizer": self.optimizer.state_dict(),
            "best": {name: getattr(self.best, name) for name in _Best.__dataclass_fields__},
        }
        checkpoint.save(self.folder / "checkpoint", state, self.epoch * 1_000_000 + self.step)

    def restore(self, saved: dict[str, Any]) -> None:
        if saved["recipe"] != repr(self.recipe) or saved["seed"] != self.seed:
            raise RunError(f"the checkpoint in {self.folder} is of another recipe or seed; give the same ones, or another folder")
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.ema is not None:
            self.ema.average.load_state_dict(saved["ema"])
            self.ema.updates = saved["ema_updates"]
        self.best = _Best(**saved["best"])
        self.epoch, self.step, self.sums = saved["epoch"], saved["step"], saved["sums"]
        self.rows, self.timings = saved["rows"], saved["timings"]


def make_optimizer(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    match recipe.optimizer:
        case "sgd":
            nesterov = recipe.momentum > 0
            return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=nesterov, weight_decay=recipe.weight_decay)
        case "adamw":
            return torch.optim.AdamW(groups, betas=(recipe.momentum, 0.999), weight_decay=recipe.weight_decay)
        case _:
            assert_never(recipe.optimizer)


def to_input(pixels: Tensor, preprocess: Preprocess, device: torch.device) -> Tensor:
    """uint8 (B, 3, H, W) -> what the network reads, on the device, channels last."""
    return normalise(pixels.to(device).contiguous(memory_format=torch.channels_last), preprocess)


@torch.no_grad()
def evaluate(model: Network, images: ImageDataset, *, batch: int = 8, tell: Progress | None = None) -> Scores:
    """Scores of `model` on a split, preprocessed as in prediction; the model is left in eval mode."""
    model.eval()
    device = next(model.parameters()).device
    outputs, answers = [], []
    for number, (pixels, labels) in enumerate(_plain(images, batch)):
        outputs.append(model(to_input(pixels, images.preprocess, device)).float().cpu())
        answers.append(labels)
        if tell is not None:
            tell("evaluating", min((number + 1) * batch, len(images)), len(images))
    return scores(torch.cat(outputs), torch.cat(answers))


@torch.no_grad()
def _features(model: Network, images: ImageDataset, *, mirrored: bool, tell: Progress, batch: int = 8) -> tuple[Tensor, Tensor]:
    """Pooled features (n, feature_width) and labels; with `mirrored`, of the mirror images too."""
    model.eval()
    device = next(model.parameters()).device
    found, answers = [], []
    for number, (pixels, labels) in enumerate(_plain(images, batch)):
        for view in (pixels, pixels.flip(3)) if mirrored else (pixels,):
            found.append(model.forward_features(to_input(view, images.preprocess, device)).mean((2, 3)).float().cpu())
            answers.append(labels)
        tell("probing", min((number + 1) * batch, len(images)), len(images))
    return torch.cat(found), torch.cat(answers)


def _plain(images: ImageDataset, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    loader: DataLoader[Any] = make_loader(images, batch=batch)
    for pixels, labels, _ in loader:
        yield pixels, labels


def _csv(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
