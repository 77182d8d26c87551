"""`README.md` of a run: a model card, Markdown with a hub's YAML front matter. The licence is left to the user."""

import json
import re
from pathlib import Path, PurePath
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader

from phiscale.atomic import write_text
from phiscale.report.folder import read_run
from phiscale.report.page import LISTED, formats, shown
from phiscale.report.scores import scores


def write_card(run_dir: str | Path) -> Path:
    """Write `README.md` into a run folder from the folder's files alone, and return its path.

    No path of the machine goes into it: a card is made to be published. RunError as for `write_report`.
    """
    files = read_run(run_dir)
    split = files.split
    several = bool(files.said("output", "multi_label"))
    looked_at = [row for row in files.predictions if row.split == split and not several]
    test = files.said("test")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown: every stranger's text goes through `md` or `yaml`
        undefined=ChainableUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(formats(), md=_md, yaml=_yaml)
    text = environment.get_template("card.md").render(
        files=files,
        run=files.run,
        design=files.design,
        cost=files.design.cost,
        split=split,
        scores=scores(looked_at, files.labels),
        result=test or files.said("result") or {},
        result_split="test" if test else str(files.said("result", "split")),
        asked_budget=str(files.said("asked", "budget") or files.design.origin.budget or ""),
        data_name=PurePath(str(files.said("data", "source") or "images")).name or "images",
        listed=LISTED,
    )
    card = files.folder / "README.md"
    write_text(card, text)
    return card


def _md(value: Any) -> str:
    r"""Text that Markdown and the HTML inside it leave as it is, on one line.

    >>> _md("a|b <i> [x](y)\n# z")
    'a\\|b &lt;i&gt; \\[x\\](y) # z'
    """
    text = re.sub(r"\s+", " ", str(shown(value))).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)


def _yaml(value: Any) -> str:
    """A string as YAML reads it back: JSON in ASCII is YAML too."""
    return json.dumps(str(shown(value)))
