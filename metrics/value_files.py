"""Files of metrics whose space is reserved before it is used.

prometheus_client extends its files without reserving space, and writes through a mapping: where
the file system is full, the write ends the process by SIGBUS, and with it the image that it works
on. Here a file gets its blocks first; where there are none, the values stay in the process.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
from typing import Any

from prometheus_client.mmap_dict import MmapedDict

_FIRST_BYTES = 1 << 16

logger = logging.getLogger(__name__)


class ReservedDict(MmapedDict):
    """A file of values.

    Raises:
        OSError: The file cannot be opened, or the file system is full.
    """

    _m: Any
    _f: Any
    _used: int
    _capacity: int

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        if not read_mode:
            with open(filename, "a+b") as file:
                reserve(file.fileno(), max(_FIRST_BYTES, os.fstat(file.fileno()).st_size))
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def make_room(self, extra: int) -> None:
        """Let so many bytes more fit."""
        capacity = self._capacity
        while self._used + extra > capacity:
            capacity *= 2
        if capacity > self._capacity:
            self._grow(capacity)

    def _init_value(self, key: str) -> None:
        self.make_room(_entry_bytes(key))
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _grow(self, capacity: int) -> None:
        reserve(self._f.fileno(), capacity)
        self._m = mmap.mmap(self._f.fileno(), capacity)
        self._capacity = capacity


class ForgivingDict(ReservedDict):
    """A file of values, or a part of memory that nobody else sees where there is no space."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        try:
            super().__init__(filename, read_mode)
        except OSError as error:
            _warn(filename, error)
            self._fname, self._f = filename, None
            self._m, self._capacity = mmap.mmap(-1, _FIRST_BYTES), _FIRST_BYTES
            self._positions: dict[str, int] = {}
            self._used = 8
            self._m[0:4] = struct.pack("i", self._used)

    def close(self) -> None:
        """Let go of file and memory."""
        if self._f is not None:
            super().close()  # type: ignore[no-untyped-call]
        elif self._m is not None:
            self._m.close()
            self._m = None

    def _grow(self, capacity: int) -> None:
        if self._f is not None:
            try:
                super()._grow(capacity)
                return
            except OSError as error:
                _warn(self._fname, error)
                self._f.close()
                self._f = None
        larger = mmap.mmap(-1, capacity)
        larger[: self._capacity] = self._m[:]
        self._m, self._capacity = larger, capacity


def reserve(file: int, size: int) -> None:
    """Give a file its length and the blocks for it.

    Raises:
        OSError: There is no space.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    elif os.fstat(file).st_size < size:  # macOS: written zeros take their blocks too
        os.pwrite(file, bytes(size - os.fstat(file).st_size), os.fstat(file).st_size)


def _entry_bytes(key: str) -> int:
    """How much a value with this key takes: length, key and padding, value and time."""
    length = len(key.encode())
    return 4 + length + (8 - (length + 4) % 8) + 16


def _warn(filename: str, error: OSError) -> None:
    logger.warning("metrics of this process are not shared, %s: %s", filename, error.strerror)
