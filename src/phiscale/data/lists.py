"""CSV lists of images: path and label, or path and several labels. No torch; no pixel is read here."""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phiscale.errors import ArgumentError, DataError
from phiscale.runtime.image import printable

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SEPARATORS = ";|"  # between the labels of an image
YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no", "")
ERRORS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Listed:
    """One file of a list: its labels (exactly one, of a multi-label list any number), its split ("" where none is given), its line."""

    labels: tuple[str, ...]
    split: str
    line: int


def read_list(path: Path, *, multi_label: bool) -> tuple[dict[Path, Listed], list[str]]:
    """The files of a list, and notes. All wrong lines are told together, in a DataError.

    The first line names the columns path,label and, if you like, split. Several labels: path,labels with `;` or `|` between an
    image's labels, or a line for each of them; or beside path and split one column a class, of 0 and 1. Files are looked for from
    the list's own folder, and may not lie outside it.
    """
    header, reader = _open(path)
    columns = _columns(path, header, multi_label=multi_label)
    notes: list[str] = []
    wrong: list[str] = []
    rows: dict[Path, Listed] = {}
    repeated = 0
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            line = reader.line_num
            try:
                file, labels, split = _row(path.parent, header, row, columns, multi_label=multi_label)
                if file in rows:
                    labels = _again(file, rows[file], labels, split, multi_label=multi_label)
                    repeated += not multi_label
            except DataError as error:
                wrong.append(f"line {line}: {error}")
                continue
            rows[file] = Listed(labels, split, rows[file].line if file in rows else line)
    except csv.Error as error:
        wrong.append(f"line {reader.line_num}: {error}")
    if wrong:
        more = f"\n  and {len(wrong) - ERRORS_SHOWN} more" if len(wrong) > ERRORS_SHOWN else ""
        shown = "\n  ".join(wrong[:ERRORS_SHOWN])
        raise DataError(f"{printable(path)}: {len(wrong)} wrong line{'s' * (len(wrong) > 1)}\n  {shown}{more}")
    if not rows:
        raise DataError(f"{printable(path)}: has no rows below its first line")
    if repeated:
        notes.append(f"{repeated} lines repeat an earlier one ({len({row.labels for row in rows.values()})} classes)")
    if multi_label:
        several, none = sum(len(row.labels) > 1 for row in rows.values()), sum(not row.labels for row in rows.values())
        notes.append(f"{several} of {len(rows)} images have several labels, {none} have none")
        if empty := sorted(set(columns) - {label for row in rows.values() for label in row.labels}):
            raise DataError(f"{printable(path)}: no image has a 1 in the column {', '.join(map(printable, empty[:5]))}; leave it out")
    return rows, notes


def _open(path: Path) -> tuple[list[str], Any]:
    """The names of the columns, and the reader of the rows below."""
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            text = file.read()
    except OSError as error:
        raise ArgumentError(f"can't read {printable(path)}: {error.strerror}") from None
    first = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    try:
        return [name.strip() for name in next(reader, [])], reader
    except csv.Error as error:
        raise DataError(f"{printable(path)}: line 1: {error}") from None


def _columns(path: Path, header: Sequence[str], *, multi_label: bool) -> tuple[str, ...]:
    """The columns that are classes, of a list that has such; empty where labels are in a column of their own."""
    names = [name.lower() for name in header]
    if doubled := sorted({name for name in header if header.count(name) > 1}):
        raise DataError(f"{printable(path)}: line 1 names {printable(doubled[0])!r} twice")
    if not multi_label:
        if missing := [name for name in ("path", "label") if name not in names]:
            hint = "; for several labels an image give --multi-label" if "labels" in names else ""
            raise DataError(
                f"{printable(path)}: line 1 must name the columns path,label (and split, if you like); there is no {missing[0]!r}{hint}"
            )
        return ()
    classes = tuple(name for name, folded in zip(header, names, strict=True) if folded not in ("path", "split"))
    if "path" not in names or not classes:
        raise DataError(
            f"{printable(path)}: line 1 must name the columns path,labels, or path and one column a class (and split, if you like); "
            f"there is {', '.join(map(printable, header[:10])) or 'nothing'}"
        )
    return () if {"label", "labels"} & set(names) else classes


def _row(
    root: Path, header: Sequence[str], row: Sequence[str], columns: tuple[str, ...], *, multi_label: bool
) -> tuple[Path, tuple[str, ...], str]:
    if len(row) != len(header):
        raise DataError(f"has {len(row)} cells, the first line {len(header)}")
    values = [cell.strip() for cell in row]
    cells = dict(zip((name.lower() for name in header), values, strict=True))
    if not cells["path"]:
        raise DataError("the path is empty")
    if columns:
        labels = tuple(sorted(name for name, cell in zip(header, values, strict=True) if name in columns and _yes(name, cell)))
    elif multi_label:
        text = cells["labels"] if "labels" in cells else cells["label"]
        for separator in SEPARATORS[1:]:
            text = text.replace(separator, SEPARATORS[0])
        labels = tuple(sorted({label.strip() for label in text.split(SEPARATORS[0])} - {""}))
    else:
        labels = (cells["label"],)
        if not cells["label"]:
            raise DataError("the label is empty")
    split = cells.get("split", "")
    if split and split.lower() not in SPLIT_NAMES:
        raise DataError(f"split must be train, val or test; got {printable(split)!r}")
    return _file(root, cells["path"]), labels, SPLIT_NAMES.get(split.lower(), "")


def _yes(column: str, cell: str) -> bool:
    if cell.lower() not in (*YES, *NO):
        raise DataError(f"the column {printable(column)!r} must be 0 or 1, as it is taken for a class; got {printable(cell)!r}")
    return cell.lower() in YES


def _file(root: Path, name: str) -> Path:
    inside = os.path.abspath(root)
    file = os.path.normpath(os.path.join(inside, name))
    if os.path.commonpath([inside, file]) != inside or "\0" in file:
        raise DataError(f"{printable(name)} is outside the CSV's folder")
    path = root / os.path.relpath(file, inside)
    if not path.is_file():
        raise DataError(f"there is no file {printable(name)}")
    return path


def _again(file: Path, before: Listed, labels: tuple[str, ...], split: str, *, multi_label: bool) -> tuple[str, ...]:
    """The labels of a file that is listed once more."""
    if before.split == split and (multi_label or before.labels == labels):
        return tuple(sorted({*before.labels, *labels}))
    was = f"was {printable('|'.join(before.labels))!r} " if not multi_label else "was "
    raise DataError(f"{printable(file.name)} {was}in {before.split or 'train'} on line {before.line}")
