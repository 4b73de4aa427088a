"""A LlamaIndex retriever over a knowledge base of ragops. Needs `pip install 'ragops[llama-index]'`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from ragops.adapters.passages import Where, checked, metadata, opened
from ragops.errors import MissingExtra
from ragops.retrieval.query import Options, Results

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.schema import NodeRelationship, NodeWithScore, QueryBundle, RelatedNodeInfo, TextNode
except ImportError as error:
    raise MissingExtra(
        f"the adapter for LlamaIndex needs llama-index-core ({error})", "Install it: pip install 'ragops[llama-index]'"
    ) from error

#: What a language model is shown of a citation; the rest is for the program.
SHOWN = frozenset({"uri", "title", "heading", "page"})


class RagopsRetriever(BaseRetriever):
    """`RagopsRetriever("kb", k=5).retrieve("a question")`: passages as nodes with scores, best first.

    `retriever` is an open `ragops.Retriever`, or a workspace's folder (then with `tenant` and `groups`, where there
    are any); `options` are those of its `search`. A node's id is the chunk's; its metadata is the citation, with
    scores by leg and the release (`ragops.adapters.passages.metadata`), of which a language model is shown uri,
    title, heading and page. Raises UsageError, StoreError.
    """

    def __init__(
        self,
        retriever: Where,
        k: int | None = None,
        *,
        tenant: str | None = None,
        groups: Sequence[str] | None = None,
        callback_manager: CallbackManager | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(callback_manager)
        self._k = k
        self._options = checked(k, options)
        self._retriever = opened(retriever, tenant=tenant, groups=groups)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return _nodes(self._retriever.search(query_bundle.query_str, self._k, **self._options))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return _nodes(await self._retriever.asearch(query_bundle.query_str, self._k, **self._options))


def _nodes(results: Results) -> list[NodeWithScore]:
    found = []
    for hit in results.hits:
        cited = metadata(hit, results)
        hidden = [name for name, value in cited.items() if name not in SHOWN or not value]
        node = TextNode(
            id_=hit.chunk_id,
            text=hit.text,
            metadata=cited,
            start_char_idx=hit.start,
            end_char_idx=hit.end,
            excluded_llm_metadata_keys=hidden,
            excluded_embed_metadata_keys=hidden,
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=hit.document_id)},
        )
        found.append(NodeWithScore(node=node, score=hit.score))
    return found
