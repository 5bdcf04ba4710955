"""Where a study is kept: a journal file on one machine, PostgreSQL or Optuna's gRPC proxy for several."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock, JournalStorage

GRPC_PORT = 13000  # Optuna's own default
LOCK_SECONDS = 10  # without a line from anybody: whoever holds the journal's lock is dead


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The storage at a URL; None: the journal file in the folder.

    Raises:
        ValueError: it cannot be reached, or a library for it is missing.
    """
    if url is None:
        return open_journal(folder / "journal.log")
    try:
        if url.startswith("grpc://"):
            return open_proxy(url)
        return optuna.storages.get_storage(url)
    except ImportError as error:
        raise ValueError(
            f"--storage {without_password(url)} needs a library that is not there ({error}); "
            "install it with: pip install 'unplateau[cluster]'"
        ) from error
    except Exception as error:  # SQLAlchemy, psycopg and grpc raise errors of their own
        said = str(error).partition("\n")[0]
        raise ValueError(f"--storage {without_password(url)} cannot be opened: {without_password(said)}") from error


def open_journal(path: Path) -> JournalStorage:
    """The journal, its last line whole: a line torn by a crash, with another one behind it, would end the study."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = JournalFileSymlinkLock(str(path), grace_period=LOCK_SECONDS)
    mend(path, lock)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def mend(path: Path, lock: JournalFileSymlinkLock) -> None:
    """Cut off what stands after the last line end; nobody writes meanwhile."""
    if not path.exists():
        return
    with held(lock), path.open("rb+") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)


@contextlib.contextmanager
def held(lock: JournalFileSymlinkLock) -> Iterator[None]:
    """The lock, held inside."""
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def open_proxy(url: str) -> BaseStorage:
    """Optuna's gRPC proxy at grpc://HOST:PORT."""
    place = urlsplit(url)
    return optuna.storages.GrpcStorageProxy(host=place.hostname or "localhost", port=place.port or GRPC_PORT)


def without_password(text: str) -> str:
    """The text with the passwords of its URLs blanked.

    >>> without_password("postgresql://me:secret@db/studies")
    'postgresql://me:***@db/studies'
    """
    return re.sub(r"(://[^:/@\s]*):[^@/\s]*@", r"\1:***@", text)


def quiet() -> None:
    """Optuna says nothing: the command line does."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
