"""scikit-learn's handwritten digits (1,797 of 8 x 8 pixels, from the UCI repository) as a folder of class folders."""

import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image

from phiscale.errors import DataError, MissingExtraError


def cache_folder() -> Path:
    """Where phiscale keeps what it can make again: $PHISCALE_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("PHISCALE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phiscale"


def digits_folder() -> Path:
    """The folder with 0/ ... 9/, written on first use, whole or not at all. MissingExtraError without scikit-learn."""
    folder = cache_folder() / "digits-1"  # a new number when what is written changes
    if folder.is_dir():
        return folder
    try:
        from sklearn.datasets import load_digits  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]
    except ImportError:
        raise MissingExtraError("the data set `digits` comes with scikit-learn: pip install phiscale[digits]") from None
    images, labels = load_digits(return_X_y=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".digits-", dir=folder.parent))
        try:
            for number, (pixels, label) in enumerate(zip(images.reshape(-1, 8, 8), labels, strict=True)):
                (draft / str(label)).mkdir(exist_ok=True)
                grey = (pixels * (255 / 16)).round().astype("uint8")  # 0 ... 16 -> 0 ... 255
                Image.fromarray(grey).save(draft / str(label) / f"{number:04d}.png")
            draft.chmod(0o755)
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same files
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"can't write the digits to {folder}: {error.strerror}; set PHISCALE_CACHE to a folder that can be written"
        ) from None
    return folder
