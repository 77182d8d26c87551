"""Files that are whole or absent: written aside, synced, renamed.

Comes in: a path and what to write.  Goes out: the file.  Never: leaves half of one.  Start reading: `replacing`.
"""

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from phiscale.errors import RunError


@contextmanager
def replacing(path: str | Path) -> Generator[Path]:
    """A temporary neighbour to write; becomes `path` at the end, or vanishes if anything fails.

    RunError, naming the folder, where the disk is full or the folder can't be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise as_run_error(error, path.parent) from error
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """The new name, too, outlives a power cut; where folders can't be opened (Windows) the system sees to it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system that has no such thing
                raise
        finally:
            os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what killed writers left in `folder`; for who knows that nobody else writes into it."""
    for stray in folder.glob(".*.tmp"):
        stray.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically; bytes of file names that are not UTF-8 come out as they went in."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def as_run_error(error: OSError, folder: Path) -> RunError:
    """The same failure in words a person can act on."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"the disk of {folder} is full; free some space and run the same command again")
    return RunError(f"can't write in {folder}: {error.strerror or error}")
