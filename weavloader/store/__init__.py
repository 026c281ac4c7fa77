"""Where images are kept: one protocol, an embedded store and Weaviate."""

from __future__ import annotations

from pathlib import Path

from weavloader.settings import Settings
from weavloader.store.base import Store
from weavloader.store.validation import VECTOR_RANKS, VectorRanks


def open_store(settings: Settings, ranks: VectorRanks = VECTOR_RANKS) -> Store:
    """The store that ``VECTOR_STORE`` names; it connects on first use.

    Only the client of that store is imported: Weaviate's takes two seconds and 80 MB.

    Args:
        ranks: The vectors that objects may carry.
    """
    if settings.vector_store == "embedded":
        from weavloader.store.embedded.store import EmbeddedStore

        return EmbeddedStore(Path(settings.embedded_store_path), settings.store_timeout, ranks)
    from weavloader.store.weaviate.store import WeaviateStore

    return WeaviateStore(settings, ranks)
