"""The keys of a running service, which follow their file."""

import contextlib
import os
import time
from pathlib import Path

from iocpd.api.keys import KeyFileError, KeyFileMissing, KeyRing, check_rights, read_keys
from iocpd.api.logs import get_logger

_Stamp = tuple[int, int, int, int]
KeyFile = tuple[KeyRing, _Stamp]
"""The keys in a file, and what tells whether it has changed since."""

_log = get_logger("iocpd.keys")


class KeyStore:
    """For the event loop's thread alone.

    A file that can't be used any more - it is gone, damaged, not readable, or others may write to it - leaves the keys
    as they were: nothing that happens to it opens the API.
    """

    CHECK_SECONDS = 1.0
    """How long a change of the file may go unnoticed."""

    def __init__(self, path: Path | None) -> None:
        """path: None where there is no file to follow, and so no keys. KeyFileError if the file there can't be used."""
        self.path = path
        self._ring: KeyRing | None = None
        self._seen: _Stamp | None = None
        self._complaint = ""
        self._next_check = time.monotonic() + self.CHECK_SECONDS
        with contextlib.suppress(KeyFileMissing):
            self.renew()

    @property
    def count(self) -> int:
        """How many keys there are. May be asked from any thread."""
        return len(self._ring or ())

    @property
    def troubled(self) -> bool:
        """Whether the file could not be used when it was last looked at, so that former keys are in force."""
        return bool(self._complaint)

    def current(self, *, at_once: bool = False) -> KeyRing | None:
        """The keys; None while there has never been a file. Looks at the file once in CHECK_SECONDS; with `at_once`
        now, unless it could not be used when it was last looked at.
        """
        now = time.monotonic()
        if self.path is not None and (now >= self._next_check or (at_once and not self._complaint)):
            self._next_check = now + self.CHECK_SECONDS
            self._follow(self.path)
        return self._ring

    def renew(self) -> None:
        """Reads the file now. KeyFileError: the keys are as they were."""
        if self.path is not None:
            self.take(_load(self.path))

    def look(self) -> KeyFile | None:
        """What is in the file now, for `take`; None if there has never been one. KeyFileError."""
        try:
            return None if self.path is None else _load(self.path)
        except KeyFileMissing:
            if self._ring is None:
                return None
            raise

    def take(self, file: KeyFile) -> bool:
        """Puts these keys in force; whether they are others than before."""
        others = self._ring is None or not self._ring.same(file[0])
        self._ring, self._seen = file
        self._complaint = ""
        return others

    def _follow(self, path: Path) -> None:
        try:
            # A file that could not be used is read again each time: that it can be may not show in its stamp.
            if self._complaint or _stamp(path) != self._seen:
                before = self._ring
                self.renew()
                _log.info("keys read again", file=str(path), before=len(before or ()), now=len(self._ring or ()))
        except (KeyFileError, OSError) as error:
            missing = isinstance(error, KeyFileMissing | FileNotFoundError)
            if self._ring is None and missing:
                return
            complaint = f"there is no key file {path}" if missing else str(error)
            if complaint != self._complaint:
                _log.error("the key file can't be used; the former keys stay in force", reason=complaint)
            self._complaint = complaint


def _stamp_of(status: os.stat_result) -> _Stamp:
    # A rename shows in the inode even where the clock of the file system is coarse.
    return status.st_mtime_ns, status.st_ino, status.st_size, status.st_dev


def _stamp(path: Path) -> _Stamp:
    return _stamp_of(os.stat(path))


def _load(path: Path) -> KeyFile:
    # The stamp is taken first: what changes while the file is read makes a difference the next time.
    try:
        seen = _stamp(path)
    except FileNotFoundError:
        raise KeyFileMissing(f"there is no key file {path}") from None
    except OSError as error:
        raise KeyFileError(f"cannot read the key file {path}: {error.strerror}") from error
    check_rights(path)
    return KeyRing(read_keys(path)), seen
