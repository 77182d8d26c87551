"""Which of two engines is the default for a network on this machine: the one that was faster when it was tried, once.

Comes in: a model and two ways to open it.  Goes out: the faster Engine.  Never: decides for a machine where it was not measured.
Start reading: `faster` below.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phiscale.atomic import replacing
from phiscale.errors import RunError
from phiscale.runtime.engines import Engine, Runtime

ENOUGH, FEWEST = 0.1, 3  # seconds and calls of each engine; they take turns, and the fastest call counts
MOST = 1000  # answers that are remembered


def faster(contenders: Sequence[Runtime], open_one: Callable[[Runtime], Engine], image: NDArray[np.float32], *, about: object) -> Engine:
    """The contender that computes `image` fastest, opened. The first wins a tie.

    about  whatever else the answer depends on (machine, network, threads, precision, versions): the same again is not measured again
    """
    path = remembered_in()
    key = hashlib.sha256(repr((tuple(contenders), about)).encode()).hexdigest()[:32]
    known = _read(path).get(key)
    for name in contenders:
        if name == known:
            return open_one(name)
    engines = [open_one(name) for name in contenders]
    best = _fastest(engines, image)
    _write(path, key, best.name)
    return best


def remembered_in() -> Path:
    """Where this machine's answers are kept; delete it to have them measured again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phiscale" / "engines.json"


def _fastest(engines: Sequence[Engine], image: NDArray[np.float32]) -> Engine:
    for engine in engines:
        engine(image)  # first calls plan memory, compile, wake threads
    seconds = [list[float]() for _ in engines]
    while left := [i for i, own in enumerate(seconds) if sum(own) < ENOUGH or len(own) < FEWEST]:
        for i in left:
            start = time.perf_counter()
            engines[i](image)
            seconds[i].append(time.perf_counter() - start)
    return engines[int(np.argmin([min(own) for own in seconds]))]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _write(path: Path, key: str, name: str) -> None:
    """A file that can't be written is left alone: the next process measures again."""
    kept = dict(list(_read(path).items())[-MOST + 1 :]) | {key: name}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    except (OSError, RunError):
        pass
