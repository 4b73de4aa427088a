"""BERT and its family on packed batches: all tokens of a batch in one matrix, no padding.

`encode` of sentence-transformers computes a row for every padding token; here the matrices of a batch hold real tokens
only, and attention runs once per group of texts of equal length. The arithmetic is the same, so are the vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ragops.errors import ModelError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from ragops.embedders.models import Layout, ModelFiles

    Linear = Callable[..., Tensor]

_ACTIVATIONS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}  # -> gelu's approximation
_FAR = 128  # distances beyond share a bucket (MPNet)
_PACK_ROWS = 1024  # rows of a usual batch: a hint to oneDNN, not a limit
_POOLING = {"cls", "mean", "max", "lasttoken", "mean_sqrt_len_tokens"}


@dataclass(frozen=True, slots=True)
class Names:
    """Where one architecture keeps its weights, and how its config calls things."""

    prefixes: tuple[str, ...]
    layer: str
    query: str
    key: str
    value: str
    output: str
    output_norm: str
    up: str
    down: str
    down_norm: str
    heads: str = "num_attention_heads"
    layers: str = "num_hidden_layers"
    activation: str = "hidden_act"
    positions_behind_pad: bool = False  # RoBERTa: positions begin at pad_token_id + 1
    relative: str | None = None  # MPNet: a learned bias by distance


_BERT = Names(
    prefixes=("", "bert."),
    layer="encoder.layer.{}.",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    output_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    down_norm="output.LayerNorm",
)
_ROBERTA = Names(
    **{name: getattr(_BERT, name) for name in Names.__slots__}
    | {"prefixes": ("", "roberta."), "positions_behind_pad": True}
)
_MPNET = Names(
    prefixes=("", "mpnet."),
    layer="encoder.layer.{}.",
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    output="attention.attn.o",
    output_norm="attention.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    down_norm="output.LayerNorm",
    positions_behind_pad=True,
    relative="encoder.relative_attention_bias.weight",
)
_DISTILBERT = Names(
    prefixes=("", "distilbert."),
    layer="transformer.layer.{}.",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    output="attention.out_lin",
    output_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    down_norm="output_layer_norm",
    heads="n_heads",
    layers="n_layers",
    activation="activation",
)
FAMILIES = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": _MPNET,
    "distilbert": _DISTILBERT,
}


def can_pack(layout: Layout) -> bool:
    """Whether this forward pass gives what the model's own gives."""
    config = layout.config
    names = FAMILIES.get(str(config.get("model_type")))
    return (
        names is not None
        and not layout.extra
        and len(layout.pooling) == 1
        and layout.pooling[0] in _POOLING
        and (layout.include_prompt or not (layout.query_prompt or layout.document_prompt))
        and config.get(names.activation, "gelu") in (*_ACTIVATIONS, "relu")
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder", False)
        and not config.get("quantization_config")
    )


@dataclass(frozen=True, slots=True)
class _Layer:
    attention: Linear  # query, key and value in one
    output: Linear  # with what is added to it
    output_norm: Linear
    up: Linear  # with the activation
    down: Linear  # with what is added to it
    down_norm: Linear


class PackedModel:
    """The forward pass of one model on one device."""

    def __init__(
        self, files: ModelFiles, layout: Layout, device: torch.device, dtype: torch.dtype, *, plain: bool = False
    ) -> None:
        """`plain` keeps to operators that can be exported."""
        import torch

        config = layout.config
        self._names = names = FAMILIES[str(config["model_type"])]
        self._device = device
        self._dtype = dtype
        self._pooling = layout.pooling[0]
        self._normalize = layout.normalize
        self._heads = int(config[names.heads])
        self._pad = int(config.get("pad_token_id") or 0)
        self._buckets = int(config.get("relative_attention_num_buckets", 32))
        self._bias: dict[int, Tensor] = {}
        pack = not plain and device.type == "cpu" and dtype == torch.float32
        get = _weights(files, names, device, dtype)
        eps = float(config.get("layer_norm_eps", 1e-12))
        words, positions = get("embeddings.word_embeddings.weight"), get("embeddings.position_embeddings.weight")
        width = words.shape[1]
        if width % self._heads or positions.shape[1] != width:
            raise ModelError(f"model {files.name!r}: config.json does not fit the weights", "fetch the model again")
        self._words = words
        # Every token of a text is of type 0: that row joins the positions'.
        types = get("embeddings.token_type_embeddings.weight", optional=True)
        self._positions = positions if types is None else positions + types[0]
        self._norm = _norm(get, "embeddings.LayerNorm", eps)
        self._relative: Tensor | None = get(names.relative) if names.relative else None
        activation = str(config.get(names.activation, "gelu"))
        self._layers = []
        for number in range(int(config[names.layers])):
            at = names.layer.format(number)
            qkv = [
                (get(f"{at}{part}.weight"), get(f"{at}{part}.bias")) for part in (names.query, names.key, names.value)
            ]
            self._layers.append(
                _Layer(
                    attention=_linear(torch.cat([w for w, _ in qkv]), torch.cat([b for _, b in qkv]), pack),
                    output=_linear(get(f"{at}{names.output}.weight"), get(f"{at}{names.output}.bias"), pack, "add"),
                    output_norm=_norm(get, f"{at}{names.output_norm}", eps),
                    up=_linear(get(f"{at}{names.up}.weight"), get(f"{at}{names.up}.bias"), pack, activation),
                    down=_linear(get(f"{at}{names.down}.weight"), get(f"{at}{names.down}.bias"), pack, "add"),
                    down_norm=_norm(get, f"{at}{names.down_norm}", eps),
                )
            )

    def forward(self, batch: Sequence[NDArray[Any]]) -> Tensor:
        """Token ids per text, texts of equal length side by side -> float32 (len(batch), dim) on the device."""
        import numpy as np
        import torch

        flat = np.concatenate(batch)
        if int(flat.max()) >= len(self._words):
            raise ModelError(f"token {int(flat.max())} is beyond the model's vocabulary", "fetch the model again")
        positions = np.concatenate([self._text_positions(text) for text in batch])
        groups: list[tuple[int, int, int]] = []  # first row, texts, length
        row = 0
        for text in batch:
            if groups and groups[-1][2] == len(text):
                groups[-1] = (groups[-1][0], groups[-1][1] + 1, len(text))
            else:
                groups.append((row, 1, len(text)))
            row += len(text)
        with torch.inference_mode():
            ids = torch.from_numpy(flat).to(self._device, non_blocking=True)
            where = torch.from_numpy(positions).to(self._device, non_blocking=True)
            x = self.encode(ids, where, groups)
            return self.pool(x, groups)

    def encode(
        self,
        ids: Tensor,
        positions: Tensor,
        groups: Sequence[tuple[int, int, int]],
        bias: Callable[[int], Tensor | None] | None = None,
    ) -> Tensor:
        """Last hidden states, (tokens, width)."""
        import torch
        from torch.nn.functional import embedding, scaled_dot_product_attention

        bias = bias or self._distance_bias
        x = self._norm(embedding(ids, self._words) + embedding(positions, self._positions))
        width = x.shape[1]
        for layer in self._layers:
            qkv = layer.attention(x)
            parts = []
            for row, texts, length in groups:
                heads = qkv[row : row + texts * length].view(texts, length, 3, self._heads, width // self._heads)
                q, k, v = heads.permute(2, 0, 3, 1, 4)
                mixed = scaled_dot_product_attention(q, k, v, attn_mask=bias(length))
                parts.append(mixed.transpose(1, 2).reshape(texts * length, width))
            x = layer.output_norm(layer.output(torch.cat(parts) if len(parts) > 1 else parts[0], x))
            x = layer.down_norm(layer.down(layer.up(x), x))
        return x

    def pool(self, x: Tensor, groups: Sequence[tuple[int, int, int]]) -> Tensor:
        """(tokens, width) -> float32 (texts, width)."""
        import torch

        pooled = []
        for row, texts, length in groups:
            tokens = x[row : row + texts * length].view(texts, length, -1).float()
            if self._pooling == "cls":
                pooled.append(tokens[:, 0])
            elif self._pooling == "lasttoken":
                pooled.append(tokens[:, -1])
            elif self._pooling == "max":
                pooled.append(tokens.amax(1))
            elif self._pooling == "mean":
                pooled.append(tokens.mean(1))
            else:
                pooled.append(tokens.sum(1) / length**0.5)
        vectors = torch.cat(pooled)
        return torch.nn.functional.normalize(vectors, dim=1) if self._normalize else vectors

    def rectangle(self, ids: Tensor) -> Tensor:
        """The same arithmetic on (texts, length) ids without padding: what is exported for queries."""
        import torch

        texts, length = ids.shape
        if self._names.positions_behind_pad:
            real = (ids != self._pad).long()
            positions = torch.cumsum(real, 1) * real + self._pad
        else:
            positions = torch.arange(length)[None].expand(texts, length)
        groups = [(0, texts, length)]
        bias = self.distance_bias if self._relative is not None else lambda _length: None
        return self.pool(self.encode(ids.reshape(-1), positions.reshape(-1), groups, bias), groups)

    def _text_positions(self, text: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        if not self._names.positions_behind_pad:
            return np.arange(len(text))
        real = text != self._pad  # a text can spell the padding token
        places: NDArray[Any] = np.cumsum(real) * real + self._pad
        return places

    def _distance_bias(self, length: int) -> Tensor | None:
        """MPNet's learned bias by distance, (1, heads, length, length); None for other families."""
        if self._relative is None:
            return None
        if length not in self._bias:
            self._bias[length] = self.distance_bias(length)
        return self._bias[length]

    def distance_bias(self, length: int) -> Tensor:
        """(1, heads, length, length), as transformers' MPNet buckets distances."""
        import torch

        place = torch.arange(length, device=self._device)
        distance = place[:, None] - place[None, :]  # query - key
        half = self._buckets // 2
        exact = half // 2
        log = torch.log(distance.abs().clamp(min=1).float() / exact) / math.log(_FAR / exact)
        far = (exact + (log * (half - exact)).long()).clamp(max=half - 1)
        bucket = torch.where(distance.abs() < exact, distance.abs(), far) + (distance < 0) * half
        assert self._relative is not None
        return self._relative[bucket].permute(2, 0, 1)[None].contiguous()


def _weights(files: ModelFiles, names: Names, device: torch.device, dtype: torch.dtype) -> Callable[..., Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    for path in files.weights:
        try:
            tensors |= load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read: {error}", "fetch the model again") from error
    if not tensors:
        raise ModelError(f"model {files.name!r} has no weights", "fetch the model again")
    word = "embeddings.word_embeddings.weight"
    prefix = next((prefix for prefix in names.prefixes if prefix + word in tensors), names.prefixes[0])

    def get(name: str, optional: bool = False) -> Tensor | None:
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        for key in (prefix + name, prefix + old):
            if key in tensors:
                return tensors[key].to(device=device, dtype=dtype)
        if optional:
            return None
        raise ModelError(f"model {files.name!r}: its weights lack {prefix + name}", "fetch the model again")

    return get


def _norm(get: Callable[..., Any], name: str, eps: float) -> Linear:
    from torch.nn.functional import layer_norm

    weight, bias = get(f"{name}.weight"), get(f"{name}.bias")
    return lambda x: layer_norm(x, weight.shape, weight, bias, eps)


def _linear(weight: Tensor, bias: Tensor, pack: bool, then: str = "") -> Linear:
    """x -> then(x W^T + b), `then` an activation, or "add": (x, other) -> x W^T + b + other.

    Where this torch can, the weights are packed once, for oneDNN: MKL packs them at every call, a tenth to a fifth of
    the time. The operators are private (torch.compile's own), so they are checked here against the public
    ones, and left aside if they fail.
    """
    import torch
    from torch.nn.functional import gelu, linear, relu

    approximate = _ACTIVATIONS.get(then, "none")

    def public(x: Tensor, other: Tensor | None = None) -> Tensor:
        y = linear(x, weight, bias)
        if other is not None:
            return y + other
        if not then:
            return y
        return relu(y) if then == "relu" else gelu(y, approximate=approximate)

    if not pack or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return public
    kind = "none" if not then else "relu" if then == "relu" else "gelu"
    try:
        operator = torch.ops.mkldnn._linear_pointwise
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, _PACK_ROWS)

        def fused(x: Tensor, other: Tensor | None = None) -> Tensor:
            y: Tensor = (
                operator(x, packed, bias, kind, [], approximate)
                if other is None
                else operator.binary(x, other, packed, bias, "add")
            )
            return y

        probe = torch.linspace(-1, 1, 3 * weight.shape[1]).view(3, -1)
        other = torch.linspace(-1, 1, 3 * weight.shape[0]).view(3, -1) if then == "add" else None
        if torch.allclose(fused(probe, other), public(probe, other), rtol=1e-4, atol=1e-4):
            return fused
    except (AttributeError, RuntimeError):
        pass
    return public
