"""Embedders for ingestion, on torch: the packed forward pass, or sentence-transformers' own for other architectures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any

from ragops.embedders.models import ModelFiles, identify, load_tokenizer, read_layout
from ragops.embedders.packed import PackedModel, can_pack
from ragops.embedders.tokenizer import TextTokenizer, clean
from ragops.embedders.window import refuse_long
from ragops.errors import MissingExtra, ModelError, UsageError
from ragops.types import Space

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from ragops.types import Vectors

    Batch = list[int]  # places in the call, longest text first

CPU_BATCH_TOKENS = 2048
GPU_BATCH_TOKENS = 32_768


class TorchEmbedder:
    """One model on one or more devices. What differs is only how a batch of texts becomes vectors."""

    def __init__(
        self, files: ModelFiles, *, device: str, batch_tokens: int | None = None, expected_sha: str | None = None
    ) -> None:
        torch = _torch()
        self.files = files
        self.space: Space = identify(files, expected_sha)  # before any weight is loaded
        self.layout = read_layout(files)
        self.tokenizer: TextTokenizer = load_tokenizer(files)
        devices = pick_devices(device)
        kind = devices[0].type
        self.packed = can_pack(self.layout)
        half = kind == "cuda" and self.packed
        self.numerics = f"{'float16' if half else 'float32'}/torch-{torch.__version__.partition('+')[0]}/{kind}"
        large = kind != "cpu" or self.layout.static
        self._batch_tokens = batch_tokens or (GPU_BATCH_TOKENS if large else CPU_BATCH_TOKENS)
        if self.packed:
            dtype = torch.float16 if half else torch.float32
            packed = [PackedModel(files, self.layout, device, dtype) for device in devices]
            self._lanes = [_packed_lane(model) for model in packed]
            # Two threads in one matrix product wait for each other; two batches side by side do not.
            if kind == "cpu":
                self._lanes *= torch.get_num_threads()
            self._one_thread = kind == "cpu"
        else:
            lane = _static_lane if self.layout.static else _library_lane
            self._lanes = [lane(files, device, self.space) for device in devices]
            self._one_thread = False

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Documents to float32 (len(texts), dim). Raises ModelError for a text beyond the window."""
        return self._embed(texts, self.space.document_prompt, query=False)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Queries to float32 (len(texts), dim); longer ones are cut at the window."""
        return self._embed(texts, self.space.query_prompt, query=True)

    def _embed(self, texts: Sequence[str], prompt: str, *, query: bool) -> Vectors:
        import numpy as np

        distinct = list(dict.fromkeys(texts))
        window = self.space.max_tokens
        tokens = self.tokenizer.ids([prompt + text for text in distinct], cut_at=window if query else None)
        if not query and any(len(ids) > window for ids in tokens):
            place = {text: index for index, text in reversed(list(enumerate(texts)))}
            counts = [0] * len(texts)
            for text, ids in zip(distinct, tokens, strict=True):
                counts[place[text]] = len(ids)
            refuse_long(counts, 0, window)
        vectors = np.empty((len(distinct), self.space.dim), dtype=np.float32)
        batches = plan([len(ids) for ids in tokens], self._batch_tokens, padded=not (self.packed or self.layout.static))

        def run(lane: Callable[..., Any], batch: Batch) -> None:
            vectors[batch] = lane([distinct[i] for i in batch], [tokens[i] for i in batch], query)

        self._run(run, batches)
        if not np.isfinite(vectors).all():
            bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise ModelError(
                f"model {self.space.model!r} gave numbers that are not finite for the text {distinct[bad][:60]!r}",
                "its weights are damaged or do not bear half precision: try `device: cpu`",
            )
        if len(distinct) == len(texts):
            return vectors
        row = {text: index for index, text in enumerate(distinct)}
        return vectors[[row[text] for text in texts]]

    def _run(self, run: Callable[..., None], batches: Sequence[Batch]) -> None:
        """Every batch once, over all lanes; the first error ends the rest."""
        torch = _torch()
        queue: Iterator[Batch] = iter(batches)
        lock = Lock()
        lanes = self._lanes[: len(batches)]

        def work(lane: Callable[..., Any]) -> None:
            while True:
                with lock:
                    batch = next(queue, None)
                if batch is None:
                    return
                run(lane, batch)

        if len(lanes) <= 1:
            for lane in lanes:
                work(lane)
            return
        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(len(lanes), initializer=self._enter_lane) as pool:
                futures = [pool.submit(work, lane) for lane in lanes]
                try:
                    for future in futures:
                        future.result()
                finally:
                    with lock:
                        for _ in queue:  # an error in one lane: the others stop after their batch
                            pass
        finally:
            if self._one_thread:
                torch.set_num_threads(threads)  # what later threads inherit

    def _enter_lane(self) -> None:
        if self._one_thread:
            _torch().set_num_threads(1)  # of this thread, and of those that begin after it


def plan(lengths: Sequence[int], budget: int, *, padded: bool) -> list[Batch]:
    """Batches of about equal length, longest first, each at most `budget` tokens (with padding, where there is any)."""
    batches: list[Batch] = []
    total = 0
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        after = longest * (len(batches[-1]) + 1) if padded and batches else total + length
        if not batches or after > budget:
            batches.append([])
            total, longest = 0, length
        batches[-1].append(index)
        total += length
    return batches


def pick_devices(device: str) -> list[torch.device]:
    """ "auto": every CUDA device, else MPS, else the CPU. Raises UsageError for one that is not there."""
    torch = _torch()
    if device == "auto":
        if torch.cuda.is_available():
            return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
        return [torch.device("mps" if torch.backends.mps.is_available() else "cpu")]
    try:
        chosen = torch.device(device)
        if chosen.type not in ("cpu", "cuda", "mps"):
            raise ValueError("ragops runs on cpu, cuda and mps")
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"device {device!r} cannot be used: {reason}", "use auto, cpu, cuda, cuda:0 or mps") from error
    return [chosen]


def _packed_lane(model: PackedModel) -> Callable[..., Any]:
    def lane(_texts: list[str], tokens: list[NDArray[Any]], _query: bool) -> NDArray[Any]:
        result: NDArray[Any] = model.forward(tokens).cpu().numpy()
        return result

    return lane


def _static_lane(files: ModelFiles, device: torch.device, space: Space) -> Callable[..., Any]:
    import numpy as np

    torch = _torch()
    model = _checked(files, device, space)

    def lane(_texts: list[str], tokens: list[NDArray[Any]], _query: bool) -> NDArray[Any]:
        starts = np.cumsum([0, *map(len, tokens[:-1])])
        features = {"input_ids": np.concatenate(tokens), "offsets": starts}
        with torch.inference_mode():
            found = model({name: torch.from_numpy(value).to(device) for name, value in features.items()})
        result: NDArray[Any] = found["sentence_embedding"].cpu().numpy()
        return result

    return lane


def _checked(files: ModelFiles, device: torch.device, space: Space) -> Any:
    model = library_model(files, device)
    if (dim := model.get_embedding_dimension()) != space.dim:
        raise ModelError(f"model {files.name!r} gives {dim} numbers, its files say {space.dim}", "fetch it again")
    return model


def _library_lane(files: ModelFiles, device: torch.device, space: Space) -> Callable[..., Any]:
    model = _checked(files, device, space)
    model.max_seq_length = space.max_tokens

    def lane(texts: list[str], _tokens: list[NDArray[Any]], query: bool) -> NDArray[Any]:
        encode = model.encode_query if query else model.encode_document
        prompt = space.query_prompt if query else space.document_prompt
        result: NDArray[Any] = encode(
            [clean(text) for text in texts], prompt=prompt, batch_size=len(texts), show_progress_bar=False
        )
        return result

    return lane


def library_model(files: ModelFiles, device: torch.device) -> Any:
    """The model as sentence-transformers runs it: local files only, safetensors only, no code of the model's own."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtra(f"running model {files.name!r} needs sentence-transformers", _INSTALL) from error
    static = read_layout(files).static
    try:
        model = SentenceTransformer(
            str(files.folder),
            device=str(device),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={} if static else {"use_safetensors": True},
        ).eval()
        return model.float() if static else model  # tables are often kept in half precision
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"model {files.name!r} cannot be loaded: {error}", "fetch the model again") from error


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("embedding documents needs torch", _INSTALL) from error
    return torch


_INSTALL = "pip install 'ragops[ingest]'"
