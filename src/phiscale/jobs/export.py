"""The bundle of a run, written anew from its weights."""

from pathlib import Path

from phiscale.deploy.bundle import export_bundle
from phiscale.jobs.run import BUNDLE, Run
from phiscale.weights.store import load_folder


def export(folder: str | Path, *, out: str | Path | None = None) -> Path:
    """Write the bundle of the run `folder` to `out` (None: FOLDER/bundle), replacing the one that is there; give back its folder."""
    run = Run(Path(folder))
    state, design, preprocess, labels = load_folder(run.folder)
    arrays = {key: value.numpy() for key, value in state.items()}
    return export_bundle(out or run.folder / BUNDLE, design=design, state=arrays, preprocess=preprocess, labels=labels or ())
