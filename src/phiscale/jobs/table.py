"""The prediction table: one row an image, with the probability of every class, as CSV or Parquet."""

import csv
import io
from pathlib import Path
from typing import Any

from phiscale.atomic import replacing, write_text
from phiscale.errors import ArgumentError, MissingExtraError
from phiscale.jobs.evaluate import Evaluation
from phiscale.jobs.run import joined, true_and_said
from phiscale.runtime.image import printable

SUFFIXES = (".csv", ".parquet")


def check_table(path: Path) -> None:
    """Before anything is computed: ArgumentError where no table can be written there, MissingExtraError for Parquet without pyarrow."""
    if path.suffix.lower() not in SUFFIXES:
        raise ArgumentError(f"a table is a .csv or a .parquet file, got {path.name!r}")
    if path.is_dir():
        raise ArgumentError(f"can't write the table {path}: it is a folder")
    if not path.parent.is_dir():
        raise ArgumentError(f"can't write the table {path}: there is no folder {path.parent}")
    if path.suffix.lower() == ".parquet":
        _pyarrow()


def write_table(path: Path, evaluation: Evaluation) -> None:
    """Columns: split, path, label, predicted, confidence, then `p_CLASS`, the probability of each class as `predict` gives it.

    Of several labels, `label` and `predicted` have them with `|` between them, and confidence is that of the likeliest class.
    """
    check_table(path)
    true, said = true_and_said(evaluation.scores, evaluation.output)
    chances = evaluation.scores.probabilities(evaluation.output)
    columns: dict[str, list[Any]] = {
        "split": [evaluation.split] * evaluation.n,
        "path": [str(item.path) for item in evaluation.items],
        "label": joined(true, evaluation.labels),
        "predicted": joined(said, evaluation.labels),
        "confidence": chances.max(1).values.tolist(),
    }
    columns |= {f"p_{name}": chances[:, number].tolist() for number, name in enumerate(evaluation.labels)}
    if path.suffix.lower() == ".parquet":
        arrow, parquet = _pyarrow()
        plain = {printable(name): [printable(v) if isinstance(v, str) else v for v in values] for name, values in columns.items()}
        with replacing(path) as temporary:
            parquet.write_table(arrow.table(plain), temporary)
        return
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(columns)
    table.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in zip(*columns.values(), strict=True))
    write_text(path, out.getvalue())


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("a Parquet table needs pyarrow: pip install 'phiscale[parquet]'; a .csv needs nothing") from None
    return pyarrow, parquet
