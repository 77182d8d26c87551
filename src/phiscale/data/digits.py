"""scikit-learn's handwritten digits (1,797 of 8 x 8 pixels, from the UCI repository) as a folder of class folders."""

from pathlib import Path

from PIL import Image

from phiscale.data.cache import cache_folder, whole_folder
from phiscale.errors import MissingExtraError


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

    def fill(draft: Path) -> None:
        for number, (pixels, label) in enumerate(zip(images.reshape(-1, 8, 8), labels, strict=True)):
            (draft / str(label)).mkdir(exist_ok=True)
            grey = (pixels * (255 / 16)).round().astype("uint8")  # 0 ... 16 -> 0 ... 255
            Image.fromarray(grey).save(draft / str(label) / f"{number:04d}.png")

    return whole_folder(folder, fill)
