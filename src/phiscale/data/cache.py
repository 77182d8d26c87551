"""Folders that phiscale can make again: whole or absent, even where two processes make the same one."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from phiscale.errors import DataError


def cache_folder() -> Path:
    """Where phiscale keeps what it can make again: $PHISCALE_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("PHISCALE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phiscale"


def whole_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    """`folder`, as `fill` writes it into a draft beside it, which is renamed when all is there. DataError where it can't be written."""
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            fill(draft)
            draft.chmod(0o755)
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same files
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError(f"can't write {folder}: {why}; set PHISCALE_CACHE to a folder that can be written and has room") from None
    return folder
