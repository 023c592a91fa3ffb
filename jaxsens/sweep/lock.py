"""Who works on what, so that no two runs on one store compute the same cell, or mix their tables.

All locks are the operating system's (`flock`): they end with the process that holds them, however it ends,
so that none is ever stale and no clock or process number needs to be trusted. A run has one file in the
store's `.claims`, which it locks while it lives and in which it names the networks that it works on; a file
that is not locked is that of a dead run and is removed. Claiming takes milliseconds, under a lock of its own.

On network file systems, locks are seen by other hosts where the server keeps them (NFS 4, or 3 with lockd;
Lustre mounted with `flock`). Where there are none at all, a run says so and goes on: there, and where each
host has its own, cells may be computed twice, but every file is still written whole.
"""

import contextlib
import errno
import json
import os
import secrets
import socket
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxsens.checks import refuse
from jaxsens.table.files import remove_leftovers, try_lock

__all__ = ["Claims", "exclusive", "table_lock"]

_SECONDS_TO_CLAIM = 60.0
# A table is written in a second; its pictures, under the same lock, may take minutes.
_SECONDS_TO_WRITE = 1800.0
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


def table_lock(out: Path) -> contextlib.AbstractContextManager[None]:
    """Held while the files in an output folder are written, so that they belong together."""
    return exclusive(out / ".table.lock", seconds=_SECONDS_TO_WRITE)


@contextlib.contextmanager
def exclusive(file: Path, *, seconds: float) -> Iterator[None]:
    """Holds a lock that one process at a time has; the file is there only while it is held.

    Raises:
        InputError: another process did not let go of it for that long; it is named.
    """
    deadline = time.monotonic() + seconds
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if acquired(file, descriptor):
                break
        except BaseException:
            os.close(descriptor)
            raise
        holder = told(read(descriptor))
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise refuse(
                f"{file}, held by {holder}",
                f"it to be free within {seconds:.0f} s",
                "run the same command again when that process has ended, or end it",
            )
        time.sleep(0.02)
    try:
        with contextlib.suppress(OSError):  # who holds it is a courtesy, which a full disk has no room for
            write(descriptor, myself())
        yield
    finally:
        # Removed while it is held: whoever waits for this file sees that it is no longer the one there.
        file.unlink(missing_ok=True)
        os.close(descriptor)


def acquired(file: Path, descriptor: int) -> bool:
    """Whether the lock on this open file is now ours, and the file still the one of that name."""
    try:
        if not try_lock(descriptor):
            return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warn_no_locks(file.parent)
        return True
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), file.stat())
    return False


def warn_no_locks(folder: Path) -> None:
    """Says what a file system without locks means."""
    warnings.warn(
        f"no file locks in {folder}: let one run at a time work there, or cells may be computed twice",
        stacklevel=2,
    )


class Claims:
    """The networks of a store that this run works on, and no other. Entering it clears what dead runs left.

    A claim is on a network's file name: cells that are measured on one network are of one run at a time.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.folder = store / ".claims"
        self.mine: set[str] = set()
        self.me = myself()
        name = f"{self.me['host']}-{self.me['pid']}-{secrets.token_hex(3)}.json"
        self.file = self.folder / name
        self.descriptor: Any = None
        """Of the open file of claims; None until there are any."""

    def __enter__(self) -> "Claims":
        with self.turn():
            self.folder.mkdir(exist_ok=True)
            descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                try_lock(descriptor)
            except OSError as error:
                os.close(descriptor)
                self.file.unlink(missing_ok=True)
                if error.errno not in _NO_LOCKS:
                    raise
                return self
            self.descriptor = descriptor
        try:
            self.write()
            remove_leftovers(self.store)
            remove_leftovers(self.store / "networks")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.descriptor is not None:
            self.file.unlink(missing_ok=True)
            os.close(self.descriptor)
            self.descriptor = None
        with contextlib.suppress(OSError):  # there are others
            self.folder.rmdir()

    def take(self, names: Iterable[str]) -> str | None:
        """Claims all of these, besides what is claimed already; if others hold one, none, and tells who."""
        if self.descriptor is None:
            return None
        wanted = set(names)
        with self.turn():
            for other in self.others():
                if wanted.intersection(other.get("claims", ())):
                    return told(other)
            self.mine |= wanted
            self.write()
        return None

    def release(self) -> None:
        """Lets go of all that is claimed."""
        self.mine.clear()
        if self.descriptor is not None:
            with self.turn():
                self.write()

    def turn(self) -> contextlib.AbstractContextManager[None]:
        """Held while claims are read or changed."""
        return exclusive(self.store / ".claims.lock", seconds=_SECONDS_TO_CLAIM)

    def others(self) -> Iterator[dict[str, Any]]:
        """What the other living runs claim. Files of dead ones are removed."""
        for file in self.folder.glob("*.json"):
            if file == self.file:
                continue
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(file, os.O_RDONLY)
                try:
                    if try_lock(descriptor, shared=True):
                        file.unlink(missing_ok=True)
                    else:
                        yield read(descriptor)
                finally:
                    os.close(descriptor)

    def write(self) -> None:
        """Puts the claims into the file, in place: its lock is on what is open."""
        try:
            write(self.descriptor, self.me | {"claims": sorted(self.mine)})
        except OSError as error:
            error.filename = str(self.file)
            raise


def myself() -> dict[str, Any]:
    """This process, for those that wait for it."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200],
    }


def told(holder: dict[str, Any]) -> str:
    """A process in words."""
    if "pid" not in holder:
        return "a process that has not said who it is"
    return f"process {holder['pid']} on {holder['host']} since {holder['since']} ({holder['command']})"


def read(descriptor: int) -> dict[str, Any]:
    """What `write` wrote; nothing where that is not whole."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        found = json.loads(os.read(descriptor, os.fstat(descriptor).st_size))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def write(descriptor: int, content: dict[str, Any]) -> None:
    """Replaces the content of an open file."""
    text = json.dumps(content).encode()
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.ftruncate(descriptor, 0)
    if os.write(descriptor, text) != len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
