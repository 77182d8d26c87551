"""Plain values to TOML: what the standard library reads (`tomllib`) but can't write. Tables, arrays of tables, scalars."""

import json
import math
from collections.abc import Mapping
from typing import Any, cast


def dumps(values: Mapping[str, Any]) -> str:
    """TOML text that `tomllib.loads` reads back equal. None is left out; TypeError for what TOML has no word for."""
    lines: list[str] = []
    _table(values, (), lines)
    return "\n".join(lines).strip() + "\n"


def _table(values: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    nested: list[tuple[str, list[Mapping[str, Any]], bool]] = []
    for key, value in values.items():
        if value is None:
            continue
        many = isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in cast("list[Any]", value))
        if many or isinstance(value, Mapping):
            nested.append((key, cast("list[Mapping[str, Any]]", value if many else [value]), many))
        else:
            lines.append(f"{_key(key)} = {_scalar(value)}")
    for key, tables, many in nested:
        below = (*path, key)
        name = ".".join(_key(part) for part in below)
        for table in tables:
            lines.extend(("", f"[[{name}]]" if many else f"[{name}]"))
            _table(table, below, lines)


def _key(key: str) -> str:
    bare = key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key)
    return key if bare else json.dumps(key, ensure_ascii=False)


def _scalar(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            if not math.isfinite(value):
                return {"inf": "inf", "-inf": "-inf"}.get(str(value), "nan")
            text = repr(value)
            return text if any(c in text for c in ".e") else text + ".0"
        case str():
            # JSON's escapes are TOML's, but for DEL
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return "[" + ", ".join(_scalar(item) for item in cast("list[Any]", value)) + "]"
        case _:
            raise TypeError(f"TOML has no form for {type(value).__name__}")
