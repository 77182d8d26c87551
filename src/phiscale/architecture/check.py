"""Checks at construction, and values from a stranger's table: every error names the part and the field."""

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, TypeVar, cast

from phiscale.errors import SpecError


def check(where: str, *, ok: bool, say: str) -> None:
    if not ok:
        raise SpecError(f"{where}: {say}")


def check_int(where: str, name: str, value: object, low: int, high: int) -> None:
    fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    check(where, ok=fits, say=f"{name} must be a whole number from {low} to {high}, got {value!r}")


def check_one_of(where: str, name: str, value: object, kinds: tuple[str, ...]) -> None:
    check(where, ok=value in kinds, say=f"{name} must be one of {', '.join(kinds)}; got {value!r}")


def check_bool(where: str, name: str, value: object) -> None:
    check(where, ok=isinstance(value, bool), say=f"{name} must be true or false, got {value!r}")


def check_real(where: str, name: str, value: object, low: float, high: float) -> None:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    check(where, ok=fits, say=f"{name} must be a number from {low:g} to {high:g}, got {value!r}")


Made = TypeVar("Made")


def build(kind: type[Made], values: Any, where: str) -> Made:
    """`kind(**values)` from a stranger's table: unknown and missing keys are errors that name the nearest field."""
    if not isinstance(values, Mapping):
        raise SpecError(f"{where}: expected a table, got {values!r}")
    known = [field.name for field in fields(cast(Any, kind))]
    for key in cast(Mapping[str, Any], values):
        if key not in known:
            near = get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise SpecError(f"{where}: no field {key!r}; {hint}")
    try:
        return kind(**values)
    except SpecError as error:
        # a nested check already says "stage: …"; the caller knows which one
        message = str(error)
        raise SpecError(f"{where}: {message.split(': ', 1)[-1]}" if message.startswith(("stage: ", "stem: ")) else message) from None
    except TypeError as error:
        raise SpecError(f"{where}: {str(error).split('() ', 1)[-1]}") from None
