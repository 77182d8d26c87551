"""Floor 5 · whole jobs that join rooms; what the command line and the Python API both call.

Comes in: what a person asked.  Goes out: a finished folder, or figures.  Never: prints (it tells a `Watcher`), parses.
Start reading: fit.py from `fit` down. What needs torch is imported on first use: choose.py and watch.py do without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phiscale.jobs.fit import fit
    from phiscale.jobs.run import Run

__all__ = ["Run", "fit"]

_HOMES = {"Run": "phiscale.jobs.run", "fit": "phiscale.jobs.fit"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'phiscale.jobs' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
