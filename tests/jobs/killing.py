"""A process that has everything imported forks runs, kills them and goes on with them. Run by test_resume.py.

Reads from standard input one JSON object: images, design, out, and `cases`, each with name, workers, resumed_workers, recipe, kills.
A kill is a number (the so-many-th operation on a file of the run since this process began), a part of a path (the first operation on
it), or {"seconds": s}. For each case out/NAME/whole is a run that nothing disturbed, out/NAME/killed the one that was killed.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import phiscale.jobs.fit as job
from phiscale.deploy.bundle import export_bundle
from phiscale.training import loop

OPTIONS: dict[str, Any] = {"weights": "none", "epochs": 2, "batch": 8, "flip": True, "threads": 1}


def forked(run: Callable[[], object]) -> int:
    """Exit status of `run` in a process of its own, negative where a signal ended it."""
    child = os.fork()
    if not child:
        status = 1
        try:
            run()
            status = 0
        except BaseException:  # noqa: BLE001 (the process ends here)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die(folder: Path, when: int | str | dict[str, float] | None) -> None:
    """Have this process killed when a `when` comes."""
    seen = 0

    def event(name: str, what: tuple[Any, ...]) -> None:
        nonlocal seen
        if name in ("open", "os.rename", "os.remove", "os.mkdir") and str(folder) in str(what[0]):
            seen += 1
            if seen == when or (isinstance(when, str) and when in str(what[0])):
                os.kill(os.getpid(), signal.SIGKILL)

    if isinstance(when, dict):
        signal.setitimer(signal.ITIMER_REAL, when["seconds"])  # nothing heeds SIGALRM: it ends the process as SIGKILL does
    elif when is not None:
        sys.addaudithook(event)


def start(given: dict[str, Any], case: dict[str, Any], folder: Path) -> None:
    more = {"unlabelled": given["images"], "rounds": 1} if case["recipe"] == "noisy_student" else {}
    job.fit(given["images"], network=given["design"], recipe=case["recipe"], out=folder, workers=case["workers"], **OPTIONS, **more)


def killed(given: dict[str, Any], case: dict[str, Any], folder: Path) -> int:
    """Kill and go on until no kill is left; how many hit."""
    hit = 0
    for when in [*case["kills"], None]:

        def go(when: int | str | dict[str, float] | None = when) -> None:
            die(folder, when)
            if (folder / "run.json").exists():
                job.resume(folder, workers=case["resumed_workers"])
            else:
                start(given, case, folder)

        status = forked(go)
        if status not in (0, -signal.SIGKILL, -signal.SIGALRM):
            raise RuntimeError(f"{case['name']}, killed {hit} times, ended with {status}")
        hit += status != 0
    return hit


def main() -> None:
    given = json.load(sys.stdin)
    torch.set_num_threads(1)
    job.export_bundle = lambda *a, **k: export_bundle(*a, **k, seconds=0.001)
    loop.CHECKPOINT_SECONDS = 0.0  # after every step
    hits = {}
    for case in given["cases"]:
        folder = Path(given["out"]) / case["name"]
        if forked(lambda case=case, folder=folder: start(given, case, folder / "whole")):
            raise RuntimeError(f"{case['name']} does not train")
        hits[case["name"]] = killed(given, case, folder / "killed")
    print(json.dumps(hits))


if __name__ == "__main__":
    main()
