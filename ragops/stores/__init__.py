"""Where releases live: Qdrant Edge in a folder, or a Qdrant server."""

from __future__ import annotations

from pathlib import Path

from ragops.types import Store


def open_store(root: Path, collection: str = "main", *, url: str | None = None, prefer_grpc: bool = False) -> Store:
    """The embedded store in `root` (`<workspace>/.ragops/store`), or the server at `url`.

    The server's key is taken from QDRANT_API_KEY. Nothing is read, written or connected to before it is used.
    """
    if url is not None:
        from ragops.stores.server import QdrantStore

        return QdrantStore.connect(url, collection, prefer_grpc=prefer_grpc)
    from ragops.stores.edge import EdgeStore

    return EdgeStore(root, collection)
