"""Which engine is the default for a network on this machine: the one that was fastest when they were tried, once.

Comes in: a model and ways to open it.  Goes out: the fastest Engine.  Never: decides for a machine where it was not measured.
Start reading: `fastest` below.
"""

import hashlib
import json
import math
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

# Of each engine and batch. They take turns, and the fastest call counts; where other programs run, few are undisturbed, so it goes on
# until the `FEWEST` fastest agree.
ENOUGH, FEWEST, MOST_SECONDS = 0.1, 3, 1.0
TURN = 3  # calls
AGREE = 1.05
MOST = 1000  # answers that are remembered


def fastest(
    contenders: Sequence[Runtime], open_one: Callable[[Runtime], Engine], batches: Sequence[NDArray[np.float32]], *, about: object
) -> Engine:
    """The contender that computes `batches` fastest, opened. The first wins a tie.

    about  whatever else the answer depends on (machine, network, threads, precision, versions): the same again is not measured again
    """
    path = remembered_in()
    key = hashlib.sha256(repr((tuple(contenders), [batch.shape for batch in batches], about)).encode()).hexdigest()[:32]
    known = _read(path).get(key)
    for name in contenders:
        if name == known:
            return open_one(name)
    engines = [open_one(name) for name in contenders]
    best = engines[best_of(contenders, [_seconds(engines, batch) for batch in batches])]
    _write(path, key, best.name)
    return best


def best_of(contenders: Sequence[Runtime], seconds: Sequence[Sequence[float]]) -> int:
    """Which contender loses least to the fastest where it loses most; our own engine only where nothing is faster, in any batch.

    seconds  of each batch, of each contender

    >>> best_of(("openvino", "native"), [[2.0, 1.0], [8.0, 5.0]]), best_of(("openvino", "native"), [[1.0, 1.1], [8.0, 5.0]])
    (1, 0)
    """
    losses = [max(own[i] / min(own) for own in seconds) for i in range(len(contenders))]
    return int(np.argmin([np.inf if name == "native" and loss > 1 else loss for name, loss in zip(contenders, losses, strict=True)]))


def remembered_in() -> Path:
    """Where this machine's answers are kept; delete it to have them measured again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phiscale" / "engines.json"


def _seconds(engines: Sequence[Engine], batch: NDArray[np.float32]) -> list[float]:
    """Of each engine's fastest call."""
    for engine in engines:
        engine(batch)  # first calls plan memory, compile, wake threads
    seconds = [list[float]() for _ in engines]

    def wants_more(own: list[float]) -> bool:
        spread = sorted(own)[FEWEST - 1] / min(own) if len(own) >= FEWEST else math.inf
        return sum(own) < MOST_SECONDS and (sum(own) < ENOUGH or spread > AGREE)

    while left := [i for i, own in enumerate(seconds) if wants_more(own)]:
        for i in left:
            engines[i](batch)  # the threads of the engine before may still be waiting busily, and the caches are its
            for _ in range(TURN):
                start = time.perf_counter()
                engines[i](batch)
                seconds[i].append(time.perf_counter() - start)
    return [min(own) for own in seconds]


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
