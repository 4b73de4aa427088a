"""Where releases live: Qdrant Edge in a folder, or a Qdrant server."""

from __future__ import annotations

from pathlib import Path

from ragops.config import StoreSettings
from ragops.types import Store


def open_store(root: Path, settings: StoreSettings = StoreSettings()) -> Store:
    """The embedded store in `root` (`<workspace>/.ragops/store`), or the server at `settings.url`.

    The server's key is taken from the environment. Nothing is read, written or connected to before it is used.
    """
    if settings.url is not None:
        from ragops.stores.server import QdrantStore

        return QdrantStore.connect(settings)
    from ragops.stores.edge import EdgeStore

    return EdgeStore(root, settings.collection)
