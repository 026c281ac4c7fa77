"""What a test lets go wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import grpc  # type: ignore[import-untyped,unused-ignore]

from tests.support.weaviate_stand_in.schema import Schema


def _nothing(_: Schema) -> None: ...


def _takes(_: str) -> str:
    return ""


@dataclass(slots=True)
class Faults:
    """What goes wrong from now on; as it is made, nothing does.

    Attributes:
        unavailable: The server answers, and says that it cannot serve: 503, ``UNAVAILABLE``.
        fails_with: The status of every call over gRPC.
        status: That of every answer over REST, without a body, as a proxy gives it.
        broken_off: So many batches are stored without index entries, and the call ends with
            ``UNAVAILABLE``, as when the server is killed.
        seconds: How long it waits before each answer over gRPC.
        key_expired: No key is good any more: 401, ``UNAUTHENTICATED``.
        most_results: Answers with more objects are too large a message.
        garble: What becomes of the bytes of an answer on their way.
        meanwhile: What another process does to a collection's schema before a change comes in.
        no_index_yet: Collections are known, but have no index yet, as just after their creation.
        refuse: What is said of an object of a batch, by its link; empty to take it.
    """

    unavailable: bool = False
    fails_with: grpc.StatusCode = grpc.StatusCode.OK
    status: int = 0
    broken_off: int = 0
    seconds: float = 0.0
    key_expired: bool = False
    no_index_yet: bool = False
    refuse: Callable[[str], str] = _takes
    most_results: int = 1_000_000
    garble: Callable[[bytes], bytes] = bytes
    meanwhile: Callable[[Schema], None] = _nothing
