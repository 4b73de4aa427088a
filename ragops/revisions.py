"""What stood at revisions of git: fetched from DVC and loaded once, into a cache of a few below `.ragops`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ragops import config, durable, ids, lock
from ragops.errors import StoreError

if TYPE_CHECKING:
    from ragops.types import Reader, Store
    from ragops_pipelines.state import State

KEPT = 5


class Revisions:
    """The cache of one workspace."""

    def __init__(self, root: Path, local: Path, data: Path) -> None:
        self.folder = local / "revisions"
        self._root = root
        self._data = data
        self._lock = local / "revisions.lock"
        self._readers: dict[Path, Reader] = {}

    def kept(self, store: Store, rev: str) -> int | None:
        """The newest kept release that was made of the dataset of a revision, if there is one."""
        from ragops.versioning import fingerprint

        wanted = fingerprint(self._root, rev)
        made = (release.number for release in store.releases() if release.fingerprint == wanted)
        return max((number for number in made if store.opens(number)), default=None)

    def reader(self, rev: str, state: Callable[[], AbstractContextManager[State]]) -> Reader:
        """A reader of the dataset of a revision, under today's permissions, open until `close`.

        Raises VersioningError, StoreError.
        """
        from ragops import versioning
        from ragops_pipelines import revision
        from ragops_pipelines.ledger import all_permissions

        wanted = versioning.fingerprint(self._root, rev)
        place = self.folder / ids.short(wanted)
        durable.make_folder(self.folder)
        with lock.hold(self._lock, wait=600):
            if not place.is_dir():
                self._make(rev, wanted, place)
                self.forget(keep=KEPT)
            os.utime(place)
            with state() as known:
                revision.permit(place, all_permissions(known))
        if place not in self._readers:
            self._readers[place] = revision.store_of(place).open(revision.NUMBER)
        return self._readers[place]

    def _make(self, rev: str, wanted: str, place: Path) -> None:
        from ragops import versioning
        from ragops_pipelines import revision

        settings = config.parse(versioning.show(self._root, rev, config.FILE).decode())
        with TemporaryDirectory(dir=self.folder) as draft:
            folder = Path(draft)
            versioning.fetch(self._root, rev, "data/dataset", folder / "dataset")
            release = revision.build(folder, settings, lambda event: None)
            if release.fingerprint != wanted:
                raise StoreError(f"the dataset at {rev} is not the one that git names", "See: dvc status")
            model = f"models/{ids.short(release.space.fingerprint)}"
            if not (self._data / model).is_dir():
                versioning.fetch(self._root, rev, f"data/{model}", folder / model)
            shutil.rmtree(folder / "dataset")
            for file in folder.glob("*.db*"):
                file.unlink()
            folder.rename(place)
            folder.mkdir()  # for what removes it

    def forget(self, keep: int = 0) -> None:
        """Remove all but the `keep` of them that were asked last."""
        places = sorted(self.folder.glob("*"), key=lambda place: place.stat().st_mtime)
        for place in places[: len(places) - keep]:
            shutil.rmtree(place)

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
