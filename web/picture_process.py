"""Pictures for the pages, decoded in a process of their own, bounded in memory and time.

A hostile file can cost that process its life, but neither the pages nor another picture.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
import struct
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Lock

import numpy as np

from weavloader.errors import PermanentError, Reason, TransientError, WeavloaderError, find_reason
from weavloader.images.decode import Pixels
from weavloader.images.encode import as_jpeg, thumbnail

# The largest pictures that are decoded take two or three on a slow machine.
TIMEOUT = 15.0
START_TIMEOUT = 60.0
# The file, its copies, the reduced picture and the JPEG, besides what is budgeted.
_HEADROOM = 256 * 1024 * 1024
# No JPEG of a screen's size comes near it.
_MAX_ANSWER = 64 * 1024 * 1024
_READY, _JPEG, _PIXELS, _ERROR = b"r", b"j", b"p", b"e"
_SIDE, _SIZE = struct.Struct(">I"), struct.Struct(">II")


class PictureProcess:
    """Makes one JPEG after another in a child process, which starts on first use.

    Args:
        max_pixels: As ``MAX_IMAGE_PIXELS``.
        max_bytes: As ``MAX_DECODE_BYTES``; the child cannot take much more.
        timeout: Seconds for one picture.
    """

    def __init__(self, max_pixels: int, max_bytes: int, timeout: float = TIMEOUT) -> None:
        self._limits = max_pixels, max_bytes
        self._timeout = timeout
        self._lock = Lock()
        self._is_closed = False
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def as_jpeg(self, data: bytes, longest_side: int) -> bytes:
        """As the function of that name.

        Raises:
            PermanentError: The file is not a readable image, takes too long, or ends the child.
            TransientError: The memory was short, or the child does not start.
        """
        return self._made(_JPEG, data, longest_side)

    def pixels(self, data: bytes, longest_side: int) -> Pixels:
        """The decoded picture, shape [H, W, 3]; otherwise as :meth:`as_jpeg`."""
        body = self._made(_PIXELS, data, longest_side)
        height, width = _SIZE.unpack_from(body)
        return np.frombuffer(body, np.uint8, offset=_SIZE.size).reshape(height, width, 3)

    def _made(self, kind: bytes, data: bytes, longest_side: int) -> bytes:
        with self._lock:
            answer = self._ask(kind + _SIDE.pack(longest_side) + data)
        body = answer[1:]
        if answer[:1] == kind:
            return body
        word, _, message = body.decode(errors="replace").partition(" ")
        reason = find_reason(word) or Reason.NOT_AN_IMAGE
        if reason == Reason.OUT_OF_MEMORY:
            raise TransientError(message, reason=Reason.OUT_OF_MEMORY)
        raise PermanentError(message, reason=reason)

    def close(self) -> None:
        """End the child at once, also in the midst of a picture."""
        self._is_closed = True
        # Whoever waits for an answer holds the lock; this lets go of it.
        if (process := self._process) is not None:
            with suppress(ValueError):  # closed by the other thread meanwhile
                process.kill()
        with self._lock:
            self._end()

    def _ask(self, request: bytes) -> bytes:
        connection = self._started()
        try:
            connection.send_bytes(request)
            if connection.poll(self._timeout):
                # Bytes and no pickles, which a child that was taken over could turn into code.
                return connection.recv_bytes(_MAX_ANSWER)
        except (EOFError, OSError) as error:
            self._end()
            self._check_open()
            message = "the process that decoded the image died"
            raise PermanentError(message, reason=Reason.KILLS_ITS_PROCESS) from error
        self._end()
        message = f"decoding the image took more than {self._timeout:g} s"
        raise PermanentError(message, reason=Reason.DECODE_TIMEOUT)

    def _started(self) -> Connection:
        if self._connection is not None and self._process is not None and self._process.is_alive():
            return self._connection
        self._end()
        self._check_open()
        # Not forked: the pages have threads.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._limits), daemon=True)
        self._process.start()
        theirs.close()
        self._connection = ours
        try:
            if ours.poll(START_TIMEOUT) and ours.recv_bytes(1) == _READY:
                return ours
        except (EOFError, OSError):
            pass
        self._end()
        raise TransientError("no process to decode images in", reason=Reason.UNREACHABLE)

    def _check_open(self) -> None:
        if self._is_closed:
            raise TransientError("the pages are closing", reason=Reason.UNREACHABLE)

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._process = None


def _serve(connection: Connection, max_pixels: int, max_bytes: int) -> None:
    """Answer requests until the other end is closed."""
    # Ctrl-C reaches every process of the terminal; the pages end this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit_memory(max_bytes + _HEADROOM)
    connection.send_bytes(_READY)
    # Should the pages be killed, their end is closed too.
    with suppress(EOFError, OSError):
        while True:
            connection.send_bytes(_answer(connection, max_pixels, max_bytes))


def _answer(connection: Connection, max_pixels: int, max_bytes: int) -> bytes:
    try:
        request = connection.recv_bytes()
        kind, data = request[:1], request[1 + _SIDE.size :]
        (longest_side,) = _SIDE.unpack_from(request, 1)
        if kind == _JPEG:
            return _JPEG + as_jpeg(data, longest_side, max_pixels, max_bytes)
        picture = thumbnail(data, longest_side, max_pixels, max_bytes)
        return _PIXELS + _SIZE.pack(picture.height, picture.width) + picture.tobytes()
    except WeavloaderError as error:
        return _ERROR + f"{error.reason} {error}".encode()
    except MemoryError:
        return _ERROR + f"{Reason.OUT_OF_MEMORY} not enough memory for the picture".encode()


def _limit_memory(more: int) -> None:
    """Limit this process's memory to what it has and ``more`` bytes, where the system can."""
    usage = Path("/proc/self/statm")
    if usage.exists():
        size = int(usage.read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (size + more, hard))
