"""Who runs what: a study that many workers share, that survives the death of any of them.

The grid is kept by ourselves, not by a sampler: the study holds the list of points, and every run (point/seed) is put in Optuna's queue by
name. There is no lock, and none is needed. Of all trials of one run the lowest-numbered that hasn't failed owns it; storages give numbers
in order, and a failed trial stays failed, so every worker sees the same owner whenever it looks, and taking it (WAITING to RUNNING) is
atomic. A run that was put in twice is so trained once, and the spare waits in case its owner's worker dies.

A worker counts up a number in its trial; who sees it stand still for `GRACE` seconds by its own clock gives the trial up as lost, and the
run is put in again. (Optuna's own heartbeats know databases only, and trust the wall clock.)
"""

import base64
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from phiscale.atomic import write_text
from phiscale.errors import ArgumentError, DivergedError, RunError
from phiscale.search.evidence import Standing, Surface, better_than_guessing, standings, surface
from phiscale.search.feasible import Candidate
from phiscale.search.setup import Setup, point_from_dict, point_to_dict
from phiscale.search.storage import close_storage, need_optuna, open_storage, plain_errors, shown

BEAT, GRACE = 15.0, 90.0  # seconds between two signs of life; without one for so long, a worker is dead
IDLE = 1.0  # seconds until a worker without work looks again
MOST_ATTEMPTS = 5
INTERRUPTED = "interrupted"
ATTRIBUTE = "phiscale"  # of the study: its setup and its grid

State = Literal["missing", "waiting", "running", "done", "pruned", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run: train `point.design` for `epochs` with `seed`. `folder` is where an interrupted one may go on from (None: nowhere)."""

    point: Candidate
    seed: int
    epochs: int
    folder: Path | None

    @property
    def run(self) -> str:
        return run_name(self.point.key, self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a run came to: top-1 on the validation images (a fraction), and which of them were right."""

    top1: float
    hits: NDArray[np.bool_] | None = None


Report = Callable[[int, float], None]  # (epochs done, top-1): raises what ends the run early; let it through
Objective = Callable[[Job, Report], Score]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run as the storage has it. `curve` is (epoch, top-1); `why` says what made it fail."""

    point: Candidate
    seed: int
    state: State
    top1: float | None = None
    curve: tuple[tuple[int, float], ...] = ()
    hits: NDArray[np.bool_] | None = None
    seconds: float | None = None
    attempts: int = 0
    worker: str = ""
    why: str = ""

    @property
    def over(self) -> bool:
        return self.state in ("done", "pruned", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What the study says. `standings` are the finalists from the best down; `surface` was fitted to all points at `surface_epoch`.

    learned   whether the winner is better than guessing by more than chance; if not, the order of the others means nothing either
    """

    winner: Candidate
    standings: tuple[Standing, ...]
    surface: Surface | None
    surface_epoch: int
    unsure: tuple[Candidate, ...]  # can't be told apart from the winner (without it)
    learned: bool = True


class _Pruned(Exception):  # noqa: N818 (not an error)
    pass


class _Lost(Exception):  # noqa: N818
    """Somebody gave this trial up: this worker was silent for too long."""


def run_name(key: str, seed: int) -> str:
    return f"{key}/{seed}"


class Study:
    """A shared study. Make it with `create` or `join`; then `work`, look at `runs`, read `findings`, and `close` it (or use `with`)."""

    def __init__(self, study: Any, setup: Setup, points: Iterable[Candidate], url: str, folder: Path | None) -> None:
        self.study, self.storage, self.url, self.folder = study, study._storage, url, folder
        self.setup, self.points = setup, tuple(points)
        self.by_key = {point.key: point for point in self.points}
        self.beats: dict[int, tuple[Any, float]] = {}  # trial -> the last sign of life, and when we saw it first
        self.worker = f"{os.uname().nodename}:{os.getpid()}"
        self.home = process_home()

    def close(self) -> None:
        """Give back its connections."""
        close_storage(self.storage)

    def __enter__(self) -> "Study":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- making and finding ----------------------------------------------------------------------

    @classmethod
    def create(cls, setup: Setup, points: Iterable[Candidate], *, storage: str, name: str, folder: Path | None = None) -> "Study":
        """A new study, or the one of that name if it was made for the same. RunError says in what another one differs."""
        points = tuple(points)
        optuna = need_optuna()
        opened = open_storage(storage)
        with plain_errors(storage):
            study = optuna.create_study(storage=opened, study_name=name, direction="maximize", load_if_exists=True)
            if ATTRIBUTE not in study.user_attrs:
                if study.get_trials(deepcopy=False):
                    raise RunError(f"the study {name!r} in {shown(storage)} was not made by phiscale; give another --study")
                study.set_user_attr(ATTRIBUTE, {"setup": setup.to_dict(), "points": [point_to_dict(point) for point in points]})
        made = cls.join(storage=storage, name=name, folder=folder, opened=opened)
        made.refuse_other(setup)
        made.read_back()
        made.fill()
        return made

    @classmethod
    def join(cls, *, storage: str, name: str, folder: Path | None = None, opened: Any = None) -> "Study":
        """The study that somebody made. RunError where there is none, or where another version of phiscale made it."""
        optuna = need_optuna()
        opened = open_storage(storage) if opened is None else opened
        with plain_errors(storage):
            try:
                study = optuna.load_study(storage=opened, study_name=name, sampler=optuna.samplers.RandomSampler(seed=0))
            except KeyError:
                known = ", ".join(sorted(optuna.get_all_study_names(opened))) or "none"
                raise RunError(f"no study {name!r} in {shown(storage)}; there: {known}") from None
            held = study.user_attrs.get(ATTRIBUTE)
        if not isinstance(held, dict):
            raise RunError(f"the study {name!r} in {shown(storage)} was not made by phiscale; give another --study")
        version = held["setup"]["version"]
        if version != Setup.__dataclass_fields__["version"].default:
            own = Setup.__dataclass_fields__["version"].default
            raise RunError(f"the study {name!r} was made by phiscale {version}, this is {own}; install the same version on all its workers")
        setup = Setup.from_dict(held["setup"])
        made = cls(study, setup, (point_from_dict(setup.baseline, values) for values in held["points"]), storage, folder)
        study.pruner = _pruner(setup)
        return made

    def refuse_other(self, setup: Setup) -> None:
        """RunError, with the differences, unless `setup` is the study's own."""
        if differences := self.setup.difference(setup):
            said = "; ".join(differences[:6]) + (f" and {len(differences) - 6} more" if len(differences) > 6 else "")
            raise RunError(
                f"the study {self.study.study_name!r} in {shown(self.url)} was made for something else: {said}. "
                "Ask for the same, or start another with -o or --study"
            )

    # --- the plan, and where it stands -----------------------------------------------------------

    def runs(self) -> list[Run]:
        """Every run planned so far, with its state: one of each point, then, once those are over, the finalists' fresh seeds."""
        with plain_errors(self.url):
            trials = self.study.get_trials(deepcopy=False)
        held: dict[str, list[Any]] = {}
        for trial in trials:
            held.setdefault(str(trial.user_attrs.get("run")), []).append(trial)
        first = [self._run(point, self.setup.seed, held) for point in self.points]
        if not all(run.over for run in first):
            return first
        return first + [
            self._run(point, self.setup.seed + n, held) for point in self.finalists(first) for n in range(1, self.setup.seeds + 1)
        ]

    def finalists(self, first: Iterable[Run]) -> list[Candidate]:
        """The best of the first round: who got furthest, then who was better there."""
        ran = [run for run in first if run.curve and run.state != "failed"]
        ran.sort(key=lambda run: (run.curve[-1][0], run.top1 if run.top1 is not None else run.curve[-1][1]), reverse=True)
        return [run.point for run in ran[: self.setup.finalists]]

    def _run(self, point: Candidate, seed: int, held: dict[str, list[Any]]) -> Run:
        own = held.get(run_name(point.key, seed), [])
        trial, state = _decisive(own)
        if trial is None:
            return Run(point=point, seed=seed, state=state, attempts=len(own), why=own[-1].user_attrs.get("why", "") if own else "")
        return Run(
            point=point,
            seed=seed,
            state=state,
            top1=trial.value if state == "done" else None,
            curve=tuple(sorted(trial.intermediate_values.items())),
            hits=_unpacked(trial.user_attrs.get("hits")),
            seconds=trial.duration.total_seconds() if trial.duration is not None else None,
            attempts=sum(_failed(one) for one in own) + (state != "waiting"),
            worker=trial.user_attrs.get("worker", ""),
            why=trial.user_attrs.get("why", ""),
        )

    def fill(self) -> list[Run]:
        """Put every planned run that nobody holds into the queue; the plan as it then stands."""
        runs = self.runs()
        missing = [run for run in runs if run.state == "missing"]
        Random(self.setup.seed).shuffle(missing)  # neighbours of the grid are alike, and pruning compares with what came before
        for run in missing:
            self._add(run.point, run.seed)
        return self.runs() if missing else runs

    def _add(self, point: Candidate, seed: int, **values: Any) -> None:
        import optuna

        c = point.coefficients
        params = {"alpha": c.alpha, "beta": c.beta, "gamma": c.gamma}
        values = {"state": optuna.trial.TrialState.WAITING} | values
        attributes = {"run": run_name(point.key, seed), "seed": seed, "macs": point.cost.macs} | values.pop("user_attrs", {})
        with plain_errors(self.url):
            self.study.add_trial(
                optuna.create_trial(
                    params=params,
                    distributions={name: optuna.distributions.FloatDistribution(0.1, 10) for name in params},
                    user_attrs=attributes,
                    **values,
                )
            )

    # --- working ---------------------------------------------------------------------------------

    def work(self, objective: Objective, *, stop: Callable[[], bool] = lambda: False, grace: float = GRACE) -> None:
        """Train run after run until all are over or `stop` says so.

        A run that diverges is given up for good; any other failure ends the worker too, and the run goes back into the queue.
        """
        while not stop():
            self.reap(grace)
            runs = self.fill()
            self.keep()
            if all(run.over for run in runs):
                return
            taken = self.take()
            if taken is None:
                time.sleep(IDLE)
                continue
            self._work_on(*taken, objective, stop, min(BEAT, grace / 4))

    def take(self) -> tuple[Any, Job] | None:
        """A trial that is now ours alone, with what to do; None if nothing waits."""
        import optuna

        waiting = optuna.trial.TrialState.WAITING
        with plain_errors(self.url):
            trials = self.study.get_trials(deepcopy=False)
            held: dict[str, list[Any]] = {}
            for trial in trials:
                held.setdefault(str(trial.user_attrs.get("run")), []).append(trial)
            for run, own in held.items():
                trial, state = _decisive(own)
                point = self.by_key.get(run.partition("/")[0])
                if state != "waiting" or trial is None or point is None or trial.state != waiting:
                    continue
                if not self.storage.set_trial_state_values(trial._trial_id, state=optuna.trial.TrialState.RUNNING):
                    continue  # somebody was quicker
                self.storage.set_trial_user_attr(trial._trial_id, "worker", self.worker)
                self.storage.set_trial_user_attr(trial._trial_id, "home", self.home)
                seed = int(trial.user_attrs["seed"])
                work = None if self.folder is None else self.folder / "work" / f"{point.key}-{seed}"
                return trial, Job(point=point, seed=seed, epochs=self.setup.epochs, folder=work)
        return None

    def _work_on(self, frozen: Any, job: Job, objective: Objective, stop: Callable[[], bool], beat: float) -> None:
        import optuna

        states, trial_id = optuna.trial.TrialState, frozen._trial_id
        trial = optuna.trial.Trial(self.study, trial_id)
        final = job.seed != self.setup.seed  # finalists are trained whole

        def report(epoch: int, top1: float) -> None:
            if lost.is_set():
                raise _Lost
            if stop():
                raise KeyboardInterrupt
            with plain_errors(self.url):
                trial.report(top1, epoch)
                if not final and epoch < job.epochs and trial.should_prune():
                    raise _Pruned

        with self._alive(trial_id, beat) as lost:
            try:
                score = objective(job, report)
                if not 0 <= score.top1 <= 1:
                    raise DivergedError(f"top-1 came out as {score.top1}")
                self._finish(trial_id, job, states.COMPLETE, score)
            except _Pruned:
                self._finish(trial_id, job, states.PRUNED, None)
            except (_Lost, optuna.exceptions.UpdateFinishedTrialError):
                return  # another worker has it by now; what it trains is the same
            except DivergedError as error:
                self._give_back(trial_id, why=str(error), hopeless=True)
            except KeyboardInterrupt:
                self._give_back(trial_id, why=INTERRUPTED, hopeless=False)
                raise
            except BaseException as error:
                self._give_back(trial_id, why=f"{type(error).__name__}: {error}", hopeless=False)
                raise

    def _finish(self, trial_id: int, job: Job, state: Any, score: Score | None) -> None:
        with plain_errors(self.url):
            if score is not None and score.hits is not None:
                self.storage.set_trial_user_attr(trial_id, "hits", _packed(score.hits))
            curve = self.storage.get_trial(trial_id).intermediate_values
            value = score.top1 if score is not None else curve[max(curve)]
        # first into the folder: a storage that fails now costs no training
        hits = _packed(score.hits) if score is not None and score.hits is not None else None
        self._keep(job.run, {"state": state.name, "value": value, "curve": sorted(curve.items()), "hits": hits})
        with plain_errors(self.url):
            self.storage.set_trial_state_values(trial_id, state=state, values=[value])
        if job.folder is not None:
            shutil.rmtree(job.folder, ignore_errors=True)  # what it would have gone on from

    def _give_back(self, trial_id: int, *, why: str, hopeless: bool) -> None:
        """The trial fails; unless it is hopeless, the run is put in again. Where the storage is broken, the reaper does it later."""
        import optuna

        try:
            self.storage.set_trial_user_attr(trial_id, "why", why[:500])
            self.storage.set_trial_user_attr(trial_id, "hopeless", hopeless)
            self.storage.set_trial_state_values(trial_id, state=optuna.trial.TrialState.FAIL)
        except Exception:  # noqa: BLE001 (the first failure is the one to tell)
            return

    @contextmanager
    def _alive(self, trial_id: int, beat: float) -> Generator[threading.Event]:
        """Signs of life from a thread; the event is set when the trial was given up by others."""
        import optuna

        over, lost = threading.Event(), threading.Event()

        def count() -> None:
            number = 0
            while not over.wait(beat):
                number += 1
                try:
                    self.storage.set_trial_user_attr(trial_id, "beat", number)
                except optuna.exceptions.UpdateFinishedTrialError:
                    return lost.set()
                except Exception:  # noqa: BLE001 (a sign of life may be missed; the training thread meets a lasting failure itself)
                    continue
            return None

        thread = threading.Thread(target=count, daemon=True)
        thread.start()
        try:
            yield lost
        finally:
            over.set()
            thread.join()

    def reap(self, grace: float = GRACE) -> int:
        """Give up the trials of dead workers: at once where the process was on this machine, else after `grace` seconds of silence."""
        import optuna

        states, given_up = optuna.trial.TrialState, 0
        with plain_errors(self.url):
            for trial in self.study.get_trials(deepcopy=False, states=(states.RUNNING,)):
                sign, now = trial.user_attrs.get("beat"), time.monotonic()
                before, since = self.beats.setdefault(trial._trial_id, (sign, now))
                if before != sign:
                    self.beats[trial._trial_id] = (sign, now)
                    since = now
                if now - since <= grace and not died_here(trial.user_attrs.get("home")):
                    continue
                try:
                    self.storage.set_trial_user_attr(trial._trial_id, "why", "its worker died")
                    given_up += self.storage.set_trial_state_values(trial._trial_id, state=states.FAIL)
                except optuna.exceptions.UpdateFinishedTrialError:
                    continue  # it was alive after all, or somebody else was quicker
        return given_up

    # --- finished runs, a second time, in the folder ---------------------------------------------

    def keep(self) -> None:
        """Copy runs that other workers finished into this worker's folder."""
        if self.folder is None:
            return
        for run in self.runs():
            if run.state in ("done", "pruned") and not self._kept(run_name(run.point.key, run.seed)).exists():
                state, value = ("COMPLETE", run.top1) if run.state == "done" else ("PRUNED", run.curve[-1][1])
                packed = None if run.hits is None else _packed(run.hits)
                self._keep(run_name(run.point.key, run.seed), {"state": state, "value": value, "curve": run.curve, "hits": packed})

    def _kept(self, run: str) -> Path:
        assert self.folder is not None
        return self.folder / "finished" / f"{run.replace('/', '-')}.json"

    def _keep(self, run: str, values: dict[str, Any]) -> None:
        if self.folder is not None:
            self._kept(run).parent.mkdir(parents=True, exist_ok=True)
            write_text(self._kept(run), json.dumps(values))

    def read_back(self) -> int:
        """Put finished runs that the folder has and the storage hasn't into the storage; how many."""
        import optuna

        if self.folder is None:
            return 0
        done = 0
        seeds = range(self.setup.seed, self.setup.seed + self.setup.seeds + 1)
        with plain_errors(self.url):
            over = {t.user_attrs.get("run") for t in self.study.get_trials(deepcopy=False) if t.state.name in ("COMPLETE", "PRUNED")}
        for point in self.points:
            for seed in seeds:
                run = run_name(point.key, seed)
                if run in over or not self._kept(run).is_file():
                    continue
                try:
                    held = json.loads(self._kept(run).read_text(encoding="utf-8"))
                    curve = {int(epoch): float(value) for epoch, value in held["curve"]}
                    state = optuna.trial.TrialState[held["state"]]
                    value, hits = float(held["value"]), held["hits"]
                except (ValueError, KeyError, TypeError):
                    continue  # not ours, or damaged: it is trained again
                self._add(point, seed, state=state, value=value, intermediate_values=curve, user_attrs={"hits": hits} if hits else {})
                done += 1
        return done

    # --- what it says ----------------------------------------------------------------------------

    def findings(self) -> Findings:
        """RunError where the study isn't over, or nothing could be trained."""
        runs = self.runs()
        if not all(run.over for run in runs):
            left = sum(not run.over for run in runs)
            raise RunError(f"the study isn't finished: {left} of {len(runs)} runs are left; go on with: phiscale search --resume")
        final = [run for run in runs if run.seed != self.setup.seed and run.state == "done"]
        if not final:
            why = next((run.why for run in runs if run.why), "no run got as far as an epoch")
            raise RunError(f"no network of the study could be trained: {why}")
        values: dict[str, list[float]] = {}
        hits: dict[str, list[NDArray[np.bool_]]] = {}
        for run in final:
            values.setdefault(run.point.key, []).append(run.top1 or 0.0)
            if run.hits is not None:
                hits.setdefault(run.point.key, []).append(run.hits)
        order = standings(values, hits)
        epoch, fitted = self._surface(runs)
        return Findings(
            winner=self.by_key[order[0].key],
            standings=order,
            surface=fitted,
            surface_epoch=epoch,
            unsure=tuple(self.by_key[one.key] for one in order[1:] if not one.told_apart),
            learned=better_than_guessing(order[0].mean, self.setup.images.get("classes", 0), self.setup.images.get("val", 0)),
        )

    def _surface(self, runs: list[Run]) -> tuple[int, Surface | None]:
        """Fitted at the last epoch that at least 12 points reached (or most), so that only equals are compared."""
        reached: dict[int, dict[str, float]] = {}
        for run in runs:
            if run.seed == self.setup.seed:
                for epoch, top1 in run.curve:
                    reached.setdefault(epoch, {})[run.point.key] = top1
        if not reached:
            return 0, None
        enough = [epoch for epoch, values in reached.items() if len(values) >= 12]
        epoch = max(enough) if enough else max(reached, key=lambda e: (len(reached[e]), e))
        at = reached[epoch]
        return epoch, surface([real_factors(self.setup.baseline, self.by_key[key].design) for key in at], list(at.values()))


def real_factors(baseline: Any, design: Any) -> tuple[float, float, float]:
    """(d, w, r) that rounding really made: blocks, summed stage widths and pixels over the baseline's."""

    def depth(of: Any) -> int:
        return sum(stage.depth for stage in of.spec.stages)

    def width(of: Any) -> int:
        return sum(stage.width for stage in of.spec.stages)

    return depth(design) / depth(baseline), width(design) / width(baseline), design.resolution / baseline.resolution


def _failed(trial: Any) -> bool:
    return trial.state.name == "FAIL" and trial.user_attrs.get("why") != INTERRUPTED


def _decisive(own: list[Any]) -> tuple[Any, State]:
    """The trial that speaks for a run, of all that carry its name in the order of their numbers."""
    names: dict[str, State] = {"COMPLETE": "done", "PRUNED": "pruned", "RUNNING": "running", "WAITING": "waiting"}
    for trial in own:
        if trial.state.name in ("COMPLETE", "PRUNED"):
            return trial, names[trial.state.name]
    hopeless = [trial for trial in own if trial.user_attrs.get("hopeless")]
    if hopeless or sum(_failed(trial) for trial in own) >= MOST_ATTEMPTS:
        return (hopeless or own)[-1], "failed"
    for trial in own:
        if trial.state.name != "FAIL":
            return trial, names[trial.state.name]
    return None, "missing"


def _pruner(setup: Setup) -> Any:
    import optuna

    match setup.pruner:
        case "halving":
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=setup.epochs, reduction_factor=3)
        case _:
            return optuna.pruners.NopPruner()


def _packed(hits: NDArray[np.bool_]) -> str:
    return f"{len(hits)}:{base64.b64encode(np.packbits(hits).tobytes()).decode()}"


def _unpacked(text: Any) -> NDArray[np.bool_] | None:
    if not isinstance(text, str) or ":" not in text:
        return None
    count, _, rest = text.partition(":")
    return np.unpackbits(np.frombuffer(base64.b64decode(rest), np.uint8), count=int(count)).astype(bool)


def process_home() -> list[Any]:
    """Which machine, process table, process and start: what `died_here` can check. Empty where the system doesn't tell (not Linux)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return [boot, os.readlink("/proc/self/ns/pid"), os.getpid(), _started(os.getpid())]
    except OSError:
        return []


def died_here(home: Any) -> bool:
    """Whether the process ran on this machine and is gone."""
    own = process_home()
    if not (isinstance(home, list) and len(home) == 4 and own and home[:2] == own[:2]):
        return False
    try:
        return _started(int(home[2])) != home[3]
    except OSError:
        return True


def _started(pid: int) -> int:
    """Clock ticks from boot to the start of a process; -1 for one that has ended and waits for its parent."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return -1 if fields[0] == "Z" else int(fields[19])


def give_folder(folder: Path) -> Path:
    """The folder, made if it isn't there. ArgumentError where it is a file."""
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"{folder} is a file; name another folder with -o")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
