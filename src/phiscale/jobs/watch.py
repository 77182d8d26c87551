"""How a job tells what it is doing, without knowing whether anyone looks."""

from pathlib import Path


class Watcher:
    """Says nothing; the command line passes one that draws."""

    def say(self, text: str) -> None:
        """One line for a person."""

    def progress(self, what: str, done: int, total: int) -> None:
        """`done` of `total` images of the step named `what`."""

    def began(self, folder: Path) -> None:
        """The run folder is there: from now on the run can be gone on with."""
