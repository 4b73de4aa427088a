"""The process that trials are forked from: it has imported everything and used nothing of it."""

from __future__ import annotations

import importlib
import json
import resource
import sys
import traceback
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from tests.crash.reference import prepare
from tests.crash.trials import Trial, attempt


def _warm() -> None:
    """Import what a run and a look import, and use nothing of it."""
    for name in (
        "email.parser", "numpy", "numpy.ma", "polars", "qdrant_edge", "ragops.cli", "ragops.cli.progress",
        "ragops.embedders.export", "ragops.embedders.hashed", "ragops.embedders.packed", "ragops.retrieval.search",
        "ragops.sources", "ragops.stores.batches", "ragops.stores.edge", "ragops.stores.edge_process",
        "ragops.stores.edge_reader", "ragops.templates", "ragops.workspace", "ragops_connectors.files",
        "ragops_connectors.media", "ragops_pipelines.embed", "ragops_pipelines.load", "ragops_pipelines.parse",
        "ragops_pipelines.run", "ragops_pipelines.snapshot", "yaml",
    ):  # fmt: skip
        importlib.import_module(name)


def serve(requests: Iterable[str]) -> None:
    _warm()
    for line in requests:
        request = json.loads(line)
        try:
            if "prepare" in request:
                answer = prepare(Path(request["place"]), request["prepare"])
            else:
                answer = asdict(attempt(Path(request["place"]), Trial(**request["trial"]), request["name"]))
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(sys.stdin)
