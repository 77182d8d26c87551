"""The loop: probe, then epochs of steps; the best by validation is kept.

What a step sees depends on (seed, epoch, step) alone: the order, the augmentation and the random numbers inside the model.
So a run that was killed goes on from its checkpoint as if nothing had happened. With several processes each computes its
share of every batch, and all sums are over all of them. Start at `_Training.run`.
"""

import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.utils.data import DataLoader

from phiscale.architecture import Preprocess
from phiscale.data.find import ImageSet
from phiscale.data.load import ImageCache, ImageDataset, make_loader, mix
from phiscale.data.transform import normalise
from phiscale.errors import ArgumentError, RunError
from phiscale.kernels import accelerate, freeze_norms, inference, restore, unfreeze_norms
from phiscale.nn import Network
from phiscale.training import checkpoint
from phiscale.training.compute import Compute
from phiscale.training.ema import Ema
from phiscale.training.guard import Guard
from phiscale.training.log import Log
from phiscale.training.metrics import Scores, correct, scores
from phiscale.training.objective import Objective, Teacher
from phiscale.training.optim import make_optimizer, without_compiler
from phiscale.training.pace import LONGEST, Pace
from phiscale.training.probe import fit_probe, probe_loss
from phiscale.training.processes import Processes
from phiscale.training.recipe import Recipe
from phiscale.training.stop import Stop
from phiscale.training.sync_norm import desync_norms, sync_norms

Progress = Callable[[str, int, int], None]  # (what, done, total), total in images
Say = Callable[[str], None]  # one line for a person
Judged = Callable[[int, float], None]  # (epochs done, validation top-1); may raise to end the training there
CHECKPOINT_SECONDS = 300.0  # inside long epochs
GRAPHS = 64  # sizes that are compiled; torch's own 8 are fewer than progressive stages in parts have
RESPAWNS = 3  # times an epoch that reading processes are started again


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The best epoch by `Scores.merit` (then loss): its weights under phiscale's names, and its scores. Epoch 0 is the probe."""

    state: dict[str, Tensor]
    epoch: int
    stage: str
    val: Scores


@dataclass(slots=True, kw_only=True)
class _Best:
    merit: float = -1.0
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
    compute: Compute | None = None,
    seed: int = 0,
    seconds: float | None = None,
    cache: ImageCache | None = None,
    workers: int = 0,
    processes: Processes | None = None,
    stop: Stop | None = None,
    tensorboard: bool = False,
    targets: Tensor | None = None,
    teacher: Teacher | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
    judged: Judged | None = None,
) -> Outcome:
    """Train `model` (its classifier sized for the images' classes) and give back the best by validation.

    Writes metrics.csv, timings.csv and checkpoint/ in `folder`; goes on from the checkpoint that it finds there.
    seconds   the recipe's whole schedule is fitted into them, in place of its epochs
    targets   (training images, classes), in place of their labels
    teacher   that of recipe.loss.distill
    judged    hears of every epoch, those before the checkpoint too
    RunError where the disk is full or another process is lost, DivergedError where the loss is no longer a number,
    StoppedError or KeyboardInterrupt, after a checkpoint, where `stop` was asked.
    """
    training = _Training(
        model, images, recipe=recipe, compute=compute or Compute(), preprocess=preprocess, folder=folder, seed=seed, cache=cache,
        workers=workers, processes=processes or Processes(), stop=stop or Stop(), tensorboard=tensorboard,
        targets=targets, teacher=teacher, tell=progress or _silent, say=say or _mute, judged=judged,
    )  # fmt: skip
    with training.processes.together(), warnings.catch_warnings(), without_compiler():
        # pointwise kernels give gradients in a layout of their own; what DDP warns of is one small copy
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        return training.run(seconds)


def _silent(what: str, done: int, total: int) -> None:
    del what, done, total


def _mute(text: str) -> None:
    del text


class _Forward(nn.Module):
    """What autocast, torch.compile and DistributedDataParallel wrap, so that the network itself stays as it is."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


class _Training:
    """One training: what changes from step to step, and the order in which it does."""

    def __init__(
        self,
        model: Network,
        images: ImageSet,
        *,
        recipe: Recipe,
        compute: Compute,
        preprocess: Preprocess,
        folder: Path,
        seed: int,
        cache: ImageCache | None,
        workers: int,
        processes: Processes,
        stop: Stop,
        tensorboard: bool,
        targets: Tensor | None,
        teacher: Teacher | None,
        tell: Progress,
        say: Say,
        judged: Judged | None,
    ) -> None:
        self.recipe, self.compute, self.preprocess, self.folder, self.seed = recipe, compute, preprocess, folder, seed
        self.processes, self.stop, self.tell, self.say, self.judged = processes, stop, tell, say, judged
        self.accelerator = make_accelerator(compute)
        part = (processes.rank, processes.count)
        self.train_set = ImageDataset(images, "train", preprocess=preprocess, augment=recipe.augment, seed=seed, cache=cache)
        self.plain_train_set = ImageDataset(images, "train", preprocess=preprocess, seed=seed, cache=cache)
        self.val_set = ImageDataset(images, "val", preprocess=preprocess, cache=cache)
        if recipe.batch < 2 * processes.count and recipe.epochs:
            raise ArgumentError(
                f"a batch of {recipe.batch} is too small for {processes.count} processes; raise --batch to {2 * processes.count}"
            )
        self.loader = make_loader(
            self.train_set, batch=recipe.batch, shuffle=True, workers=workers, part=part, balanced=recipe.sampling == "balanced"
        )
        self.batches: Any = self.loader.batch_sampler
        self.steps = len(self.batches)  # an epoch
        self.network = model.to(self.accelerator.device, memory_format=compute.layout)  # pyright: ignore[reportCallIssue]
        if not compute.compile:
            accelerate(self.network)
        counts = [0] * len(images.classes)
        for item in images.splits["train"]:
            for label in item.all_labels:
                counts[label] += 1
        self.objective = Objective(recipe, self.network, preprocess=preprocess, counts=counts, targets=targets, teacher=teacher)
        if recipe.freeze_norms:
            freeze_norms(self.network)
        self.afterwards = len(images.splits.get("test", ()))  # images that are evaluated when training is over
        self.log = Log(folder if processes.main else None, tensorboard=tensorboard)
        self.guard = Guard()
        self.best = _Best()
        self.pace: Pace | None = None
        self.epoch, self.step = 0, 0  # epochs done; steps done inside the current one
        self.sums = [0.0, 0.0, 0.0, 0.0, 0.0]  # of the current epoch: loss, right answers, images, gradient norms, steps
        self.saved, self.kept = 0, "nothing was kept yet"  # checkpoints written, and what the last one is of

    # --- the course of a run ---------------------------------------------------------------------

    def run(self, seconds: float | None) -> Outcome:
        if seconds is not None:
            self.pace = Pace(seconds, steps=self.steps, longest=round(LONGEST * self.steps * self.recipe.epochs))
        saved = self.processes.decide(lambda: checkpoint.load(self.folder / "checkpoint"))
        if saved is None:
            self.warm_up()
        self.prepare()
        if saved is not None:
            self.restore(saved)
        else:
            self.save()
        for row in self.log.rows:
            self.tell_judged(row)
        self.stop.steps = True
        while not self.finished:
            self.one_epoch()
            self.tell_judged(self.log.rows[-1])
        self.stop_where_asked()
        self.stop.steps = False
        self.log.close()
        desync_norms(restore(unfreeze_norms(self.network)))
        self.objective.finish()
        state = self.best.state
        if state is None:
            raise RunError(f"{self.folder}/checkpoint holds no trained weights; start again in another folder")
        self.network.load_state_dict(state)
        self.network.eval()
        val = evaluate(self.network, self.val_set, processes=self.processes, tell=self.tell)
        return Outcome(state=state, epoch=self.best.epoch, stage=self.best.stage, val=val)

    @property
    def finished(self) -> bool:
        """Whether the schedule is at its end, or nothing became better for as long as the recipe has patience."""
        if self.recipe.patience and self.epoch - self.best.epoch >= self.recipe.patience and self.log.rows:
            return True
        return self.time_is_up and not self.step if self.pace else self.epoch >= self.recipe.epochs

    @property
    def time_is_up(self) -> bool:
        return self.pace is not None and self.pace.position >= 1.0

    def prepare(self) -> None:
        if self.recipe.frozen_stages >= 0:
            for part in (self.network.stem, *self.network.stages[: self.recipe.frozen_stages]):
                part.requires_grad_(False)
        if self.compute.sync_norms and self.processes.count > 1:
            sync_norms(self.network)
        optimizer = make_optimizer(self.recipe, self.network, rate=self.recipe.peak_rate(self.recipe.batch))
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.ema = Ema(self.network, self.recipe.ema_decay) if self.recipe.ema_decay else None
        forward: Any = _Forward(self.network)
        made = compiled(forward) if self.compute.compile else forward
        # both are placed already; to place them accelerate would import torch.distributed.tensor: half a second
        self.model, self.optimizer = self.accelerator.prepare(made, optimizer, device_placement=[False, False])

    # --- an epoch --------------------------------------------------------------------------------

    def one_epoch(self) -> None:
        started, first, total = time.perf_counter(), self.step, len(self.train_set)
        last_saved = started
        what = f"epoch {self.epoch + 1}" + ("" if self.pace else f"/{self.recipe.epochs}")
        now = self.objective.enter(self.pace.position * self.recipe.epochs if self.pace else self.epoch)
        self.train_set.vary_by(now.augment, size=now.train_size)
        self.network.train()
        if self.pace:
            self.pace.begin_steps()
        for pixels, labels, indices in () if self.time_is_up else self.epoch_batches():
            self.one_step(pixels, labels, indices)
            self.step += 1
            self.tell(what, min(self.step * self.recipe.batch, total), total)
            if self.pace:
                ends = self.step == self.steps
                self.pace.stepped(images=self.recipe.batch, judged=len(self.val_set), afterwards=self.afterwards, last=ends)
                self.pace.position = self.processes.decide(lambda: self.pace.position if self.pace else 0.0)
            self.stop_where_asked()
            if time.perf_counter() - last_saved > CHECKPOINT_SECONDS:
                self.save()
                last_saved = time.perf_counter()
            if self.time_is_up:
                break
        seconds = time.perf_counter() - started
        speed = (min(self.step * self.recipe.batch, total) - first * self.recipe.batch) / seconds
        loss, right, n, norms, steps = self.sums
        stage = "train" if not self.recipe.probe else "finetune"
        self.judge(stage, loss / n, right / n, norms / steps, speed=speed, seconds=seconds)
        self.save()

    def epoch_batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The current epoch's batches from `step` on; where a reading process dies, others take over at the same batch."""
        self.batches.epoch, self.batches.first = self.epoch, self.step
        for attempt in range(RESPAWNS + 1):
            try:
                yield from self.reading()
            except (RuntimeError, ConnectionError, EOFError) as error:  # the latter where it dies while a batch is handed over
                if isinstance(error, RuntimeError) and "DataLoader" not in str(error):
                    raise
                if self.stop.asked:
                    self.stop_where_asked()
                if attempt == RESPAWNS:
                    raise RunError(
                        f"the processes that read images died {attempt + 1} times in epoch {self.epoch + 1} ({error}); perhaps memory "
                        f"ran out: give fewer --workers, or none, and go on with: phiscale fit --resume {self.folder}"
                    ) from error
                self.say(f"a process that reads images died; started again at step {self.step + 1} of epoch {self.epoch + 1}")
                self.batches.first = self.step
            else:
                return

    def reading(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The loader's batches. torch raises a reader's death from a signal, wherever this thread then is, even inside an update:
        without that it is raised where a batch is waited for."""
        before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
        iterator = iter(self.loader)
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)
        return iterator

    def one_step(self, pixels: Tensor, labels: Tensor, indices: Tensor) -> None:
        number = self.epoch * self.steps + self.step
        torch.manual_seed(mix(self.seed, number, *([self.processes.rank] if self.processes.rank else [])))  # dropout and drop-path
        share = self.share_of_rate(number)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        mine, all_of_them = [0.0, 0.0, len(labels)], self.processes.total(len(labels))[0]
        parts = [part for part in torch.arange(len(labels)).tensor_split(self.compute.accumulate) if len(part)]
        for part in parts:
            with self.last_of_all(part is parts[-1]):
                images = to_input(pixels[part], self.preprocess, self.accelerator.device, layout=self.compute.layout)
                answers = labels[part].to(self.accelerator.device)
                seed = mix(self.seed, number, self.processes.rank, int(part[0]))
                loss, logits = self.objective(self.model, images, answers, indices[part], seed=seed)
                self.accelerator.backward(loss * (len(part) * self.processes.count / all_of_them))  # processes' gradients are averaged
            mine[0] += loss.item() * len(part)
            mine[1] += int(correct(logits.argmax(1)[:, None], answers).sum())
        loss, right, n = self.processes.total(*mine)
        norm = self.gradient_norm()
        self.guard.check(
            loss / n, 0.0 if self.accelerator.scaler else norm,  # a scaler leaves out the steps whose gradients overflow
            where=f"epoch {self.epoch + 1}, step {self.step + 1}", rate=self.optimizer.param_groups[-1]["lr"],
            files=[self.train_set.items[index].path for index in indices.tolist()], kept=self.kept,
        )  # fmt: skip
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.network)
        for place, value in enumerate((loss, right, n, norm, 1)):
            self.sums[place] += value
        self.log.step(number + 1, loss=loss / n, grad_norm=norm, lr=self.optimizer.param_groups[-1]["lr"])

    def share_of_rate(self, number: int) -> float:
        """Where the schedule is at a step, as a share of the highest rate."""
        at = self.pace.position * self.steps * self.recipe.epochs if self.pace else number
        return self.recipe.schedule.rate(at, self.steps, self.recipe.epochs)

    def last_of_all(self, last: bool) -> AbstractContextManager[None]:
        """Processes exchange gradients in the last part of a step only."""
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def gradient_norm(self) -> float:
        """The gradients' norm over all parameters; they are scaled down to the recipe's `clip`."""
        if self.accelerator.scaler:
            self.accelerator.unscale_gradients(self.optimizer)
        learning = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in learning])
        if self.recipe.clip:
            torch.nn.utils.clip_grads_with_norm_(learning, self.recipe.clip, norm)
        return norm.item()

    def stop_where_asked(self) -> None:
        """Write a checkpoint and end, where a signal came to any of the processes."""
        if self.processes.total(float(bool(self.stop.asked)))[0]:
            self.save()
            self.stop.steps = False
            raise self.stop.error(self.stop.asked or signal.SIGTERM)

    # --- before the first step -------------------------------------------------------------------

    def warm_up(self) -> None:
        """What the recipe does before any step."""
        if self.recipe.adapt_norms:
            self.adapt_norms()
        if self.recipe.probe:
            self.probe()

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
        with self.accelerator.autocast():
            features, labels = _features(
                self.network, self.plain_train_set, mirrored=mirrored, bf16=self.compute.mixed == "bf16", processes=self.processes,
                tell=self.tell,
            )  # fmt: skip
        weight, bias = fit_probe(features, labels, self.network.spec.num_classes, label_smoothing=self.recipe.loss.label_smoothing)
        with torch.no_grad():
            self.network.classifier.weight.copy_(weight)
            self.network.classifier.bias.copy_(bias)
            logits = features @ weight.T + bias
        self.ema = None
        loss = probe_loss(logits, labels, self.recipe.loss.label_smoothing).item()
        self.judge("probe", loss, correct(logits.argmax(1)[:, None], labels).double().mean().item())

    # --- after an epoch --------------------------------------------------------------------------

    def judge(
        self, stage: str, loss: float, top1: float, norm: float = 0.0, *, speed: float | None = None, seconds: float | None = None
    ) -> None:
        """Evaluate, keep the best, write the row of the epoch that was done, and count it; the probe is epoch 0 and has no speed."""
        started = time.perf_counter()
        judged: Any = self.ema.average if self.ema is not None else self.network
        self.processes.same_buffers(judged)
        val = evaluate(judged, self.val_set, processes=self.processes, tell=self.tell_unless_stopped)
        judged.train(judged is self.network)
        if self.pace:
            self.pace.evaluated(time.perf_counter() - started)
        if speed is not None:
            self.epoch, self.step, self.sums = self.epoch + 1, 0, [0.0] * len(self.sums)
        best_so_far = (self.best.merit, -self.best.loss)
        if self.processes.decide(lambda: (val.merit, -val.loss) > best_so_far):  # machines may round otherwise
            plain = self.objective.plain(judged.state_dict())
            state = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in plain.items()}
            self.best = _Best(merit=val.merit, loss=val.loss, epoch=self.epoch, stage=stage, state=state)
        lr = self.optimizer.param_groups[-1]["lr"] if self.epoch else 0.0
        row = {"epoch": self.epoch, "stage": stage, "lr": lr, "train_loss": loss, "train_top1": top1}
        self.log.epoch(row | {"val_loss": val.loss, "val_top1": val.top1, "grad_norm": norm}, speed=speed, seconds=seconds)
        if speed is not None:
            best = ", the best so far" if self.best.epoch == self.epoch else ""
            self.say(
                f"epoch {self.epoch}: loss {loss:.4g}, validation {val.headline}{best}; {speed:.0f} images/s, "
                f"peak {self.log.timings[-1]['peak_bytes'] / 1e9:.2f} GB{self.left(time.perf_counter() - started + (seconds or 0))}"
            )

    def left(self, epoch_seconds: float) -> str:
        """How long the rest will take, in words."""
        if self.pace:
            seconds = max(0.0, self.pace.seconds - self.pace.used) * (self.pace.position < 1)
        else:
            seconds = (self.recipe.epochs - self.epoch) * epoch_seconds
        if self.finished or not seconds:
            return ""
        return f"; about {seconds:.0f} s left" if seconds < 180 else f"; about {seconds / 60:.0f} min left"

    def tell_unless_stopped(self, what: str, done: int, total: int) -> None:
        """Progress of an evaluation, which a signal ends: it is done again when the run goes on."""
        self.tell(what, done, total)
        if self.stop.asked and self.stop.steps and self.processes.count == 1:
            self.stop_where_asked()

    def tell_judged(self, row: dict[str, Any]) -> None:
        if self.judged is not None:
            self.judged(int(row["epoch"]), float(row["val_top1"]))

    # --- the whole state -------------------------------------------------------------------------

    def save(self) -> None:
        self.saved += 1
        self.kept = f"the state before it, of epoch {self.epoch + 1} after step {self.step}, is in {self.folder / 'checkpoint'}"
        if not self.processes.main:
            return
        state = {
            "recipe": repr(self.recipe),
            "seed": self.seed,
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums,
            "rows": self.log.rows,
            "timings": self.log.timings,
            "guard": [self.guard.first, self.guard.level],
            "pace": [self.pace.position, self.pace.used, self.pace.evaluation] if self.pace else None,
            "network": self.network.state_dict(),
            "ema": self.ema.average.state_dict() if self.ema else None,
            "ema_updates": self.ema.updates if self.ema else 0,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            "best": {name: getattr(self.best, name) for name in _Best.__dataclass_fields__},
        }
        checkpoint.save(self.folder / "checkpoint", state, self.saved)

    def restore(self, saved: dict[str, Any]) -> None:
        if saved["recipe"] != repr(self.recipe) or saved["seed"] != self.seed:
            raise RunError(f"the checkpoint in {self.folder} is of another recipe or seed; give the same ones, or another folder")
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.ema is not None:
            self.ema.average.load_state_dict(saved["ema"])
            self.ema.updates = saved["ema_updates"]
        if self.accelerator.scaler and saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        if self.pace and saved["pace"]:
            self.pace.position, self.pace.spent, self.pace.evaluation = saved["pace"]
        self.best = _Best(**saved["best"])
        self.epoch, self.step, self.sums, self.saved = saved["epoch"], saved["step"], saved["sums"], saved["number"]
        self.guard.first, self.guard.level = saved["guard"]
        self.log.go_on(saved["rows"], saved["timings"], self.epoch * self.steps + self.step)


def compiled(module: nn.Module) -> Any:
    """By torch.compile, with code of its own for every size of batch and image.

    Code for several sizes at once would be taken or not by what was compiled before it, and a run that is gone on with begins elsewhere.
    """
    torch._dynamo.config.recompile_limit = GRAPHS
    return torch.compile(module, dynamic=False)


def make_accelerator(compute: Compute) -> Accelerator:
    """Accelerate's state belongs to the whole process, and a second training may want another precision: it is made anew."""
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=compute.mixed)


def to_input(pixels: Tensor, preprocess: Preprocess, device: torch.device, layout: torch.memory_format = torch.channels_last) -> Tensor:
    """uint8 (B, 3, H, W) -> what the network reads, on the device."""
    return normalise(pixels.to(device).contiguous(memory_format=layout), preprocess)


@torch.no_grad()
def evaluate(
    model: Network,
    images: ImageDataset,
    *,
    batch: int = 8,
    processes: Processes | None = None,
    tell: Progress | None = None,
    by_torch: bool = False,
) -> Scores:
    """Scores of `model` on a split, preprocessed as in prediction; the model is left in eval mode. Each process does its share.

    by_torch   by the module itself, wherever the native engine could give its answers sooner
    """
    device = next(model.parameters()).device
    processes = processes or Processes()
    outputs, answers = [], []
    with inference(model, None if by_torch else _first(images, device)) as answer:
        for pixels, labels, done in _plain(images, batch, processes):
            outputs.append(answer.logits(to_input(pixels, images.preprocess, device, answer.layout)))
            answers.append(labels)
            if tell is not None:
                tell("evaluating", done, len(images))
    width = model.spec.num_classes
    logits = torch.cat(outputs) if outputs else torch.zeros(0, width)
    labels = torch.cat(answers) if answers else images.answers()[:0]
    return scores(processes.rows(logits, len(images)), processes.rows(labels, len(images)))


@torch.no_grad()
def _features(
    model: Network, images: ImageDataset, *, mirrored: bool, bf16: bool, processes: Processes, tell: Progress, batch: int = 8
) -> tuple[Tensor, Tensor]:
    """Pooled features (n, feature_width) and labels; with `mirrored`, of the mirror images too, after each batch."""
    device = next(model.parameters()).device
    views = 2 if mirrored else 1
    found, answers = [], []
    with inference(model, _first(images, device), bf16=bf16) as answer:
        for pixels, labels, done in _plain(images, batch, processes):
            seen = [answer.pooled(to_input(view, images.preprocess, device, answer.layout)) for view in (pixels, pixels.flip(3))[:views]]
            found.append(torch.stack(seen, 1))
            answers.append(labels)
            tell("probing", done, len(images))
    features, labels = processes.rows(torch.cat(found), len(images)), processes.rows(torch.cat(answers), len(images))
    return torch.cat([part.transpose(0, 1).flatten(0, 1) for part in features.split(batch)]), torch.cat(
        [part.repeat(views, *[1] * (part.ndim - 1)) for part in labels.split(batch)]
    )


def _first(images: ImageDataset, device: torch.device) -> Tensor:
    """An image as the network reads it, (1, 3, crop, crop): a split's first, or black where it has none."""
    side = images.preprocess.crop
    pixels = images[0, 0][0][None] if len(images) else torch.zeros(1, 3, side, side, dtype=torch.uint8)
    return to_input(pixels, images.preprocess, device)


def _plain(images: ImageDataset, batch: int, processes: Processes) -> Iterator[tuple[Tensor, Tensor, int]]:
    """This process's share of a split, in order: pixels, labels, and how many of the split are done by all."""
    mine = processes.share(len(images))
    keys = [[(0, index) for index in mine[start : start + batch]] for start in range(0, len(mine), batch)]
    loader: DataLoader[Any] = DataLoader(images, batch_sampler=keys)  # pyright: ignore[reportArgumentType]
    for number, (pixels, labels, _) in enumerate(loader, 1):
        yield pixels, labels, min(number * batch * processes.count, len(images))
