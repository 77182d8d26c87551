"""One process at a time trains into a folder: a lock that the system takes back when its holder dies, however it dies."""

import json
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phiscale.errors import RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

ORPHANS = 10.0  # seconds in which the reading processes of a killed one, which hold its lock too, are gone
LOCK = ".lock"  # inside the run folder: the holder's process id, boot id and host


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Hold the folder's lock; the file goes with it. RunError, naming the holder, where another process trains into the folder."""
    path = folder / LOCK
    descriptor = _take(path)
    try:
        yield
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _take(path: Path) -> int | None:
    if fcntl is None:
        return None
    until = time.monotonic() + ORPHANS
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _holder(path)
            os.close(descriptor)
            if _gone(holder) and time.monotonic() < until:
                time.sleep(0.05)
                continue
            raise RunError(
                f"{path.parent} is being trained into by process {holder.get('pid', '?')} on {holder.get('host', '?')}; "
                "wait for it, stop it, or name another folder with -o"
            ) from None
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):  # not one that its holder has just removed
            break
        os.close(descriptor)
    os.ftruncate(descriptor, 0)  # a dead process's
    os.write(descriptor, json.dumps({"pid": os.getpid(), "boot": _boot(), "host": socket.gethostname()}).encode())
    return descriptor


def _gone(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    if holder.get("boot") != _boot() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _holder(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _boot() -> str:
    """Changes with every start of the machine; empty where it isn't told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
