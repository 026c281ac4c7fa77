"""A stand-in for Weaviate on the wire, for the faults that a real server does not give on demand.

It speaks REST and gRPC as weaviate-client 4 does, from the client's own protocol definitions,
and keeps objects in memory. Its answers are those of Weaviate 1.38.11, observed. It finds
objects but does not imitate how a real server ranks them.
"""

from tests.support.weaviate_stand_in.faults import Faults
from tests.support.weaviate_stand_in.server import StandIn

__all__ = ["Faults", "StandIn"]
