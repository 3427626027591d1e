"""Visitors' files: where they are, whose they are, and when they are deleted."""

import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from video_module.errors import InputError
from video_module.files import locked
from video_module.web.limits import Refused

_PREFIX = "action-recognition-"

# Whoever has left may only be out of reach for a while, or load the page anew. Pages that are looked at ask for their
# files about twice a minute.
_AWAY_S = 150

# Of the disk, in bytes: other programs need some too.
_KEEP_FREE = 100_000_000


@contextmanager
def own_folder(parent: Path) -> Iterator[Path]:
    """A new folder below `parent` for one server's files, which goes with the block.

    Those that servers left behind that are no more, killed or out of memory, are removed first.
    """
    for folder in sorted(parent.glob(f"{_PREFIX}*")):
        _remove_leftover(folder)
    root = (parent / f"{_PREFIX}{secrets.token_hex(8)}").resolve()
    # Locked before it is there, or another server that starts just now would take it for a leftover. The lock of a
    # process ends with it, however it ends.
    with locked(root):
        root.mkdir(mode=0o700)
        try:
            yield root
        finally:
            shutil.rmtree(root, ignore_errors=True)


def _remove_leftover(folder: Path) -> None:
    try:
        is_ours = folder.lstat().st_uid == (os.getuid() if hasattr(os, "getuid") else 0)
        if is_ours and folder.is_dir() and not folder.is_symlink():
            with locked(folder):
                shutil.rmtree(folder, ignore_errors=True)
    except (InputError, OSError):  # a running server's, or gone meanwhile
        pass


class Storage:
    """Folders of one upload or one result each, below one root, with names that cannot be guessed.

    A folder goes when its owner replaces it, minutes after its owner has left, and at the latest `keep_s` seconds after
    its last use; never while it is in use. Safe to use from several threads.
    """

    def __init__(self, root: Path, *, keep_s: float, max_bytes: float) -> None:
        self.root, self.keep_s, self._max_bytes = root.resolve(), keep_s, max_bytes
        self._lock = threading.RLock()
        self._last_use: dict[Path, float] = {}
        self._users: dict[Path, int] = {}
        self._owned: dict[tuple[str, str], Path] = {}
        # Those whose owner has left.
        self._left: set[Path] = set()
        # Folders to delete again: Windows keeps files that are open, such as one that is being sent.
        self._kept: set[Path] = set()
        self._sizes: dict[Path, int] = {}
        self.examples = self.root / "examples"
        """Files for everybody, which are not deleted before the end."""

    def new_folder(self) -> Path:
        """An empty folder, which counts as used now."""
        folder = self.root / secrets.token_hex(16)
        folder.mkdir(parents=True)
        with self._lock:
            self._last_use[folder] = time.monotonic()
        return folder

    def take(self, folder: Path, num_bytes: int) -> None:
        """Count bytes that are about to be written to a folder. Raises Refused if there is no room for them."""
        with self._lock:
            if (
                sum(self._sizes.values()) + num_bytes > self._max_bytes
                or shutil.disk_usage(self.root).free < num_bytes + _KEEP_FREE
            ):
                raise Refused("storage_full")
            self._sizes[folder] = self._sizes.get(folder, 0) + num_bytes

    def own(self, path: str | Path, *, session: str, slot: str) -> None:
        """Give a file to a visitor, in place of the one in the same slot."""
        if (folder := self._folder_of(path)) is None:
            return
        with self._lock:
            earlier = self._owned.get((session, slot))
            self._owned[session, slot] = folder
            self._left.discard(folder)
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
                    self._sizes[folder] = _size(folder)
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

    def leave(self, session: str) -> None:
        """Let what a visitor owns go soon, unless it is used again."""
        with self._lock:
            self._left.update(folder for (owner, _), folder in self._owned.items() if owner == session)

    def sweep(self) -> None:
        """Delete what nobody has used for too long, and what could not be deleted before."""
        now = time.monotonic()
        with self._lock:
            for folder, last in list(self._last_use.items()):
                keep_s = min(_AWAY_S, self.keep_s) if folder in self._left else self.keep_s
                if last < now - keep_s and folder not in self._users:
                    self._drop(folder)
            for folder in list(self._kept):
                self._delete(folder)

    def _drop(self, folder: Path) -> None:
        with self._lock:
            self._last_use.pop(folder, None)
            self._left.discard(folder)
            for key in [key for key, owned in self._owned.items() if owned == folder]:
                del self._owned[key]
            if folder not in self._users:
                self._delete(folder)

    def _delete(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            self._kept.add(folder)
        else:
            self._kept.discard(folder)
            self._sizes.pop(folder, None)

    def find(self, path: str) -> Path | None:
        """The file of a visitor, or the example, that a path leads to; None for all other paths."""
        try:
            place = Path(path).resolve()
            is_served = place.is_relative_to(self.examples) or self._folder_of(place) is not None
            return place if is_served and place.is_file() else None
        except (OSError, ValueError):  # too long, or with a null byte
            return None

    def is_below(self, path: str) -> bool:
        """Whether a path leads to where visitors' files are, or were."""
        try:
            return bool(path) and Path(path).resolve().is_relative_to(self.root)
        except (OSError, ValueError):
            return False

    def _folder_of(self, path: str | Path) -> Path | None:
        """The folder that this storage made for a path; None for any other path."""
        path = Path(path).resolve()
        if not path.is_relative_to(self.root) or path == self.root:
            return None
        folder = self.root / path.relative_to(self.root).parts[0]
        return folder if folder in self._last_use or folder in self._users else None


def _size(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.lstat().st_size
        except OSError:  # deleted meanwhile
            continue
    return total
