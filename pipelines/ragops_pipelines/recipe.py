"""What a dataset is made by: chunker and embedder with their settings, and how a run tells that they changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragops import ids
from ragops.embedders import find_model, identify, load, load_tokenizer
from ragops.types import Embedder, Space
from ragops_pipelines import versions
from ragops_pipelines.job import Job

if TYPE_CHECKING:
    from ragops.embedders.models import ModelFiles


class Recipe:
    """Chunker and embedder with their fingerprints. The model itself loads when something must be embedded."""

    def __init__(self, job: Job) -> None:
        embed, chunk = job.settings.embed, job.settings.chunk
        self._embed = embed
        self.numerics = ""  # of the model, once it was loaded
        self._loaded: Embedder | None = None
        files = find_model(embed.model)
        self.token = _token(job, files)
        identity = f"{embed.model} {embed.sha256} {files.stat_token()}"
        remembered = job.state.get("model")
        if remembered and remembered["token"] == identity:
            self.space = Space(**remembered["space"])
        else:
            self.space = identify(files, embed.sha256)
        self.model: Mapping[str, Any] = {"token": identity, "space": asdict(self.space)}
        from ragops_pipelines.chunk import Chunker  # not for a run that finds nothing to do

        tokenizer = load_tokenizer(files)
        self.chunker = Chunker(tokenizer, self.space.max_tokens, size=chunk.size, overlap=chunk.overlap)
        self.parts = {"chunker": self.chunker.fingerprint, "space": self.space.fingerprint}

    @property
    def embedder(self) -> Embedder:
        if self._loaded is None:
            self._loaded = load(self._embed.model, device=self._embed.device, expected_sha=self._embed.sha256)
            self.numerics = self._loaded.numerics
        return self._loaded

    def unload(self) -> None:
        """Give the model's memory back; what follows an embedding needs its own."""
        self._loaded = None


def recipe_token(job: Job) -> dict[str, str]:
    """Equal tokens mean equal parts, told without loading anything: settings and the model files' identity."""
    return _token(job, find_model(job.settings.embed.model))


def _token(job: Job, files: ModelFiles) -> dict[str, str]:
    embed, chunk = job.settings.embed, job.settings.chunk
    return {
        "chunker": ids.composite("chunker_token", [chunk.size, chunk.overlap, versions.CHUNKER]),
        "model": ids.composite("model_token", [embed.model, embed.sha256, files.stat_token()]),
    }


def query_encoder(job: Job, space: Space) -> Path:
    """Where the exported query encoder of a space stands."""
    return job.models / ids.short(space.fingerprint)
