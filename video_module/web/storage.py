"""Visitors' files: where they are, whose they are, and when they are deleted."""

import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class StorageFull(Exception):
    """There is no room for another file."""


class Storage:
    """Folders of one upload or one result each, below one root, with names that cannot be guessed.

    A folder goes when its owner leaves or replaces it, and at the latest `keep_s` seconds after its last use; never
    while it is in use. Safe to use from several threads.
    """

    def __init__(self, root: Path, *, keep_s: float, max_bytes: float) -> None:
        self.root, self.keep_s, self._max_bytes = root.resolve(), keep_s, max_bytes
        self._lock = threading.RLock()
        self._last_use: dict[Path, float] = {}
        self._users: dict[Path, int] = {}
        self._owned: dict[tuple[str, str], Path] = {}
        # Folders to delete again: Windows keeps files that are open, such as one that is being sent.
        self._kept: set[Path] = set()
        self._promised = 0

    def new_folder(self) -> Path:
        """An empty folder, which counts as used now."""
        folder = self.root / secrets.token_hex(16)
        folder.mkdir(parents=True)
        with self._lock:
            self._last_use[folder] = time.monotonic()
        return folder

    @contextmanager
    def room_for(self, num_bytes: int) -> Iterator[None]:
        """Reserve space while a file arrives. Raises StorageFull if there is too little."""
        with self._lock:
            folders = {*self._last_use, *self._kept}
            used = sum(_size(file) for folder in folders for file in folder.rglob("*"))
            if (
                used + self._promised + num_bytes > self._max_bytes
                or num_bytes > shutil.disk_usage(self.root).free - self._promised
            ):
                raise StorageFull
            self._promised += num_bytes
        try:
            yield
        finally:
            with self._lock:
                self._promised -= num_bytes

    def own(self, path: str | Path, *, session: str, slot: str) -> None:
        """Give a file to a visitor, in place of the one in the same slot."""
        if (folder := self._folder_of(path)) is None:
            return
        with self._lock:
            earlier = self._owned.get((session, slot))
            self._owned[session, slot] = folder
            self._last_use[folder] = time.monotonic()
            if earlier is not None and earlier not in self._owned.values():
                self._drop(earlier)

    @contextmanager
    def using(self, path: str | Path) -> Iterator[None]:
        """Keep a file's folder for as long as the block runs."""
        folder = self._folder_of(path)
        with self._lock:
            if folder in self._last_use:
                self._users[folder] = self._users.get(folder, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                if folder in self._users:
                    assert self._users[folder] > 0, folder
                    self._users[folder] -= 1
                    if not self._users[folder]:
                        del self._users[folder]
                    if folder in self._last_use:
                        self._last_use[folder] = time.monotonic()
                    else:
                        # It was dropped while the block ran.
                        self._drop(folder)

    def drop(self, path: str | Path) -> None:
        """Delete the folder of a file, as soon as nobody uses it."""
        if (folder := self._folder_of(path)) is not None:
            self._drop(folder)

    def drop_session(self, session: str) -> None:
        """Delete what a visitor owns, as soon as it is not in use."""
        with self._lock:
            for key in [key for key in self._owned if key[0] == session]:
                folder = self._owned.pop(key)
                if folder not in self._owned.values():
                    self._drop(folder)

    def sweep(self) -> None:
        """Delete what nobody has used for `keep_s` seconds, and what could not be deleted before."""
        oldest = time.monotonic() - self.keep_s
        with self._lock:
            for folder in [folder for folder, last in self._last_use.items() if last < oldest]:
                if folder not in self._users:
                    self._drop(folder)
            for folder in list(self._kept):
                self._delete(folder)

    def _drop(self, folder: Path) -> None:
        with self._lock:
            self._last_use.pop(folder, None)
            for key in [key for key, owned in self._owned.items() if owned == folder]:
                del self._owned[key]
            if folder not in self._users:
                self._delete(folder)

    def _delete(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        (self._kept.add if folder.exists() else self._kept.discard)(folder)

    def _folder_of(self, path: str | Path) -> Path | None:
        """The folder that this storage made for a path; None for any other path."""
        path = Path(path).resolve()
        if not path.is_relative_to(self.root) or path == self.root:
            return None
        folder = self.root / path.relative_to(self.root).parts[0]
        return folder if folder in self._last_use or folder in self._users else None


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:  # deleted meanwhile
        return 0
