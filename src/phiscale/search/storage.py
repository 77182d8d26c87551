"""Where a study is kept: Optuna's storages, opened so that claims are atomic, and their failures in words a person can act on."""

import errno
import json
import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from phiscale.errors import ArgumentError, MissingExtraError, PhiscaleError, RunError

LOCKED_SECONDS = 60  # how long a busy SQLite file is waited for
KINDS = "sqlite:///FILE.db, journal:FILE, postgresql://USER@HOST/DATABASE or grpc://HOST:PORT"


def need_optuna() -> Any:
    """The module. MissingExtraError where it isn't installed."""
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("a search needs Optuna: pip install 'phiscale[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def open_storage(url: str) -> Any:
    """Optuna's storage of `url` (see KINDS), ready for many workers. RunError where it is damaged, locked or can't be reached."""
    need_optuna()
    with plain_errors(url):
        if url.startswith("journal:"):
            return _journal(Path(url.removeprefix("journal:")))
        if url.startswith("grpc://"):
            return _grpc(url)
        if url.startswith(("sqlite:///", "postgresql://", "postgresql+")):
            return _database(url)
    raise ArgumentError(f"can't keep a study in {shown(url)!r}; write {KINDS}")


def close_storage(storage: Any) -> None:
    """Give back the connections of `open_storage`; the storage can't be used after."""
    backend = getattr(storage, "_backend", storage)
    if hasattr(backend, "engine"):
        backend.remove_session()
        backend.engine.dispose()
    elif hasattr(backend, "close"):
        backend.close()


def shown(url: str) -> str:
    """The address without its password."""
    password = urlsplit(url).password if "://" in url else None
    return url.replace(f":{password}@", ":***@") if password else url


def _database(url: str) -> Any:
    from optuna.storages import RDBStorage, get_storage
    from sqlalchemy import event
    from sqlalchemy.exc import OperationalError

    if url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    if not url.startswith("sqlite"):
        try:
            return get_storage(RDBStorage(url, engine_kwargs={"pool_pre_ping": True}))
        except ImportError:
            raise MissingExtraError("PostgreSQL needs its driver: pip install 'psycopg[binary]'") from None
    settings = {"connect_args": {"timeout": LOCKED_SECONDS}}
    try:
        storage = RDBStorage(url, engine_kwargs=settings)
    except OperationalError as error:
        if "already exists" not in str(error):
            raise
        storage = RDBStorage(url, engine_kwargs=settings)  # two made the tables at once; they are there
    # The driver opens a transaction only at the first write, so two workers could both read a trial as waiting and both take it.
    event.listen(storage.engine, "connect", _no_own_transactions)
    event.listen(storage.engine, "begin", _write_lock_first)
    storage.engine.dispose()  # connections that were made before these rules
    return get_storage(storage)


def _no_own_transactions(connection: Any, record: Any) -> None:
    del record
    connection.isolation_level = None


def _write_lock_first(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _journal(path: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    if not path.parent.is_dir():
        raise ArgumentError(f"no folder {path.parent} to keep the journal {path.name} in; make it first")
    lock = JournalFileOpenLock(str(path))
    mend_journal(path, lock)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def mend_journal(path: Path, lock: Any) -> int:
    """Bytes cut from the journal's end: what a killed or full machine left of its last line, which would stop every later reader.

    The cut bytes go to FILE.torn. RunError, with the line's number, where the damage is not at the end.
    """
    from optuna.storages.journal._file import get_lock_file

    if not path.is_file():
        return 0
    with get_lock_file(lock), path.open("rb+") as file:
        good = 0
        for number, line in enumerate(file, 1):
            if not (line.endswith(b"\n") and _is_json(line)):
                if file.read(1):
                    raise RunError(
                        f"line {number} of the journal {path} is damaged, and trials stand behind it; "
                        "move the file away and run the same command again: finished trials are read back from the study's folder"
                    )
                with path.with_name(path.name + ".torn").open("ab") as torn:
                    torn.write(line)
                file.truncate(good)
                os.fsync(file.fileno())
                return len(line)
            good += len(line)
    return 0


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _grpc(url: str) -> Any:
    import warnings

    parts = urlsplit(url)
    if not parts.hostname or not parts.port:
        raise ArgumentError(f"can't read {url!r} as a gRPC address; write grpc://HOST:PORT")
    try:
        import_module("grpc")
        from optuna.storages import GrpcStorageProxy
    except ImportError:
        raise MissingExtraError("a gRPC proxy needs its client: pip install grpcio") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls the class experimental
        storage = GrpcStorageProxy(host=parts.hostname, port=parts.port)
    storage.wait_server_ready(timeout=30)
    return storage


@contextmanager
def plain_errors(url: str) -> Generator[None]:
    """Failures of the storage come out as RunError, saying which file or server and what to do."""
    try:
        yield
    except PhiscaleError:
        raise
    except Exception as error:
        if (said := _said(error, shown(url))) is None:
            raise
        raise RunError(said) from error


def _said(error: BaseException, where: str) -> str | None:
    """What a storage's failure means; None where it isn't one."""
    chain: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in chain:
        chain.append(step)
        step = step.__cause__ or getattr(step, "orig", None) or step.__context__
    text = " ".join(str(one) for one in chain).lower()
    kinds = {type(one).__module__.split(".")[0] for one in chain}
    full = any(isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT) for one in chain)
    if full or "disk is full" in text:
        return f"the disk of the study ({where}) is full; finished trials are safe; free some space and run: phiscale search --resume"
    if "locked" in text and any(isinstance(one, sqlite3.Error) for one in chain):
        return (
            f"the study's database {where} stayed locked for {LOCKED_SECONDS} s; close the program that holds it, or use another --storage"
        )
    if "malformed" in text or "not a database" in text or any(isinstance(one, json.JSONDecodeError) for one in chain):
        return (
            f"the study's database {where} is damaged; move the file away and run the same command again: "
            "finished trials are read back from the study's folder"
        )
    if kinds & {"sqlite3", "sqlalchemy", "psycopg", "grpc"} or "optuna" in kinds:
        first = next((str(one).strip().splitlines()[0] for one in reversed(chain) if str(one).strip()), type(error).__name__)
        return f"the study's storage {where} failed: {first}; is it running, and may this user write to it?"
    return None
