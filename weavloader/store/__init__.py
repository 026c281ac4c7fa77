"""Storage of images: one protocol, implemented by an embedded store and by Weaviate."""

from __future__ import annotations

from pathlib import Path

from weavloader.settings import Settings
from weavloader.store.base import Store
from weavloader.store.validation import VECTOR_RANKS, VectorRanks


def connect_store(settings: Settings, ranks: VectorRanks = VECTOR_RANKS) -> Store:
    """Open the store selected by ``VECTOR_STORE``; it connects on first use.

    Imports only that store's client: Weaviate's takes two seconds and 80 MB.

    Args:
        ranks: The vectors that objects may carry.
    """
    if settings.vector_store == "embedded":
        from weavloader.store.embedded.store import EmbeddedStore

        folder = Path(settings.embedded_store_path)
        return EmbeddedStore(folder, settings.store_timeout, ranks, settings.preview_models)
    from weavloader.store.weaviate.store import WeaviateStore

    return WeaviateStore(settings, ranks)
