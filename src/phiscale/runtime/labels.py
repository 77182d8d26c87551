"""labels.txt: one class a line, in the order of the outputs; a name that a line can't show plainly is a JSON string."""

import json
from collections.abc import Iterable


def dump_labels(labels: Iterable[str]) -> str:
    r"""The text of labels.txt, always valid UTF-8 (file names that are not become escapes).

    >>> dump_labels(["ant", 'two\nlines', '"quoted"'])
    'ant\n"two\\nlines"\n"\\"quoted\\""\n'
    """
    return "".join(f"{label if _plain(label) else json.dumps(label)}\n" for label in labels)


def load_labels(text: str) -> tuple[str, ...]:
    r"""What `dump_labels` wrote; ValueError for a broken escape.

    >>> load_labels('ant\n"two\\nlines"\n')
    ('ant', 'two\nlines')
    """
    return tuple(json.loads(line) if line.startswith('"') else line for line in text.removesuffix("\n").split("\n")) if text else ()


def _plain(label: str) -> bool:
    return label.isprintable() and label == label.strip() and label != "" and not label.startswith('"')
