"""Queries that come at the same time are embedded together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragops.types import Embedder, Space, Tokenizer

if TYPE_CHECKING:
    from ragops.types import Vectors

MOST = 32  # texts at once


@dataclass(frozen=True, slots=True)
class Embedded:
    """An encoder whose queries are embedded already."""

    encoder: Embedder
    vectors: dict[str, Vectors]  # (dim,) by text

    @property
    def space(self) -> Space:
        return self.encoder.space

    @property
    def numerics(self) -> str:
        return self.encoder.numerics

    @property
    def tokenizer(self) -> Tokenizer:
        return self.encoder.tokenizer

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self.encoder.embed(texts)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        import numpy as np

        return np.stack([self.vectors[text] for text in texts])


@dataclass(slots=True)
class _Waiting:
    encoder: Embedder
    texts: Sequence[str]
    done: asyncio.Future[Vectors]


class Batches:
    """One run of the model at a time; whatever came meanwhile, and within the window, goes into the next one."""

    def __init__(self, window: float, *, most: int = MOST, told: Callable[[int], None] = lambda count: None) -> None:
        """`window`: seconds that a text waits for others. `most`: texts at once; 1: never together."""
        self._window = window
        self._most = most
        self._told = told
        self._waiting: list[_Waiting] = []
        self._working: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "ragops-embed")

    async def embed(self, encoder: Embedder, texts: Sequence[str]) -> Embedded:
        """The encoder with these texts embedded. Raises what it raises."""
        waiting = _Waiting(encoder, texts, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        vectors = await waiting.done
        return Embedded(encoder, dict(zip(texts, vectors, strict=True)))

    async def _work(self) -> None:
        while self._waiting:
            if self._window and self._most > 1:
                await asyncio.sleep(self._window)
            batch = self._next()
            if not batch:
                continue
            texts = list(dict.fromkeys(text for each in batch for text in each.texts))
            self._told(len(texts))
            try:
                vectors = await asyncio.get_running_loop().run_in_executor(
                    self._thread, batch[0].encoder.embed_queries, texts
                )
            except Exception as error:  # whoever waits gets it
                for each in batch:
                    if not each.done.done():
                        each.done.set_exception(error)
                continue
            place = {text: row for row, text in enumerate(texts)}
            for each in batch:
                if not each.done.done():
                    each.done.set_result(vectors[[place[text] for text in each.texts]])

    def _next(self) -> list[_Waiting]:
        """The oldest that still wait, of one encoder."""
        self._waiting = [each for each in self._waiting if not each.done.done()]
        batch: list[_Waiting] = []
        count = 0
        for each in self._waiting:
            if batch and (each.encoder is not batch[0].encoder or count + len(each.texts) > self._most):
                break
            batch.append(each)
            count += len(each.texts)
        del self._waiting[: len(batch)]
        return batch

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
