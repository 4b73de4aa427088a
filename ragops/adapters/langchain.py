"""A LangChain retriever over a knowledge base of ragops. Needs `pip install 'ragops[langchain]'`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from ragops.adapters.passages import checked, metadata, opened
from ragops.errors import MissingExtra
from ragops.retrieval.query import Options, Results
from ragops.retriever import Retriever
from ragops.types import Mode

try:
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from pydantic import ConfigDict, PrivateAttr
except ImportError as error:
    raise MissingExtra(
        f"the adapter for LangChain needs langchain-core ({error})", "Install it: pip install 'ragops[langchain]'"
    ) from error


class RagopsRetriever(BaseRetriever):
    """`RagopsRetriever(retriever="kb", k=5).invoke("a question")`: passages as documents, best first.

    `retriever` is an open `ragops.Retriever`, or a workspace's folder (then with `tenant` and `groups`, where there
    are any); the other fields are options of its `search`, and those that are not set are the workspace's. A
    document's id is the chunk's; its metadata is the citation, with scores by leg and the release
    (`ragops.adapters.passages.metadata`). Raises UsageError, StoreError.
    """

    # A misspelt `tenant` must not be passed over.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    retriever: Retriever | str | Path
    tenant: str | None = None
    groups: list[str] | None = None
    k: int | None = None
    mode: Mode = "hybrid"
    filter: dict[str, Any] | None = None
    offset: int = 0
    per_document: int | None = None
    expand: int = 0
    exact: bool = False
    min_score: float | None = None
    diversity: float | None = None
    rerank: str | None = None
    collapse: bool = True
    _opened: Retriever = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        checked(self.k, self._options())
        self._opened = opened(self.retriever, tenant=self.tenant, groups=self.groups)

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return _documents(self._opened.search(query, self.k, **self._options()))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        return _documents(await self._opened.asearch(query, self.k, **self._options()))

    def _options(self) -> Options:
        given = self.model_fields_set & Options.__annotations__.keys()
        return cast(Options, {name: getattr(self, name) for name in given})


def _documents(results: Results) -> list[Document]:
    return [Document(id=hit.chunk_id, page_content=hit.text, metadata=metadata(hit, results)) for hit in results.hits]
