"""Embedders: one contract over every implementation, the same vectors as sentence-transformers, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragops import embedders
from ragops.embedders.local import TorchEmbedder, plan
from ragops.embedders.tokenizer import TextTokenizer
from ragops.errors import ModelError, SchemaError, SpaceMismatch, UsageError
from ragops.types import Embedder

TEXTS = [
    "A release is one state of a collection that readers can see.",
    "Rollback is the same step as publishing.",
    "",
    "   \n\t ",
    "x",
    "Überprüfung der Größe: 東京 запрос 🙂 e\u0301 \u202eabc",
    "a \x00 control character and a lone surrogate \ud800 here",
    "[SEP] [PAD] <pad> </s> special words of a vocabulary",
    "word " * 200,
    "Rollback is the same step as publishing.",
]


# ---------------------------------------------------------------- tiny models, made here
def _vocabulary(folder: Path, family: str) -> None:
    """A word-piece tokenizer over characters and a few words, in the manner of the family."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    roberta = family in ("roberta", "mpnet")
    start, end, pad, unk = ("<s>", "</s>", "<pad>", "<unk>") if roberta else ("[CLS]", "[SEP]", "[PAD]", "[UNK]")
    special = [start, pad, end, unk] if roberta else [pad, unk, start, end]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,:;<>[]/()-"
    words = ["release", "collection", "rollback", "the", "same", "word", "is"]
    vocab = {token: i for i, token in enumerate([*special, *letters, *(f"##{c}" for c in letters), *words])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=unk, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, vocab[start]), (end, vocab[end])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=unk,
        pad_token=pad,
        cls_token=start,
        sep_token=end,
        model_max_length=256,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)


def tiny_model(
    folder: Path,
    family: str,
    *,
    pooling: str = "mean",
    normalize: bool = True,
    dense: bool = False,
    prompts: dict[str, str] | None = None,
    window: int = 256,
) -> Path:
    """A random model of two layers, saved by sentence-transformers itself."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    torch.manual_seed(7)
    base = folder.parent / f"{folder.name}-base"
    _vocabulary(base, family)
    common = {"vocab_size": 200, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    wide = {**common, "hidden_size": 32, "max_position_embeddings": 300}
    model: Any
    if family == "bert":
        model = transformers.BertModel(transformers.BertConfig(**wide, hidden_act="gelu_new"))
    elif family == "roberta":
        config = transformers.RobertaConfig(**wide, pad_token_id=1, type_vocab_size=1)
        model = transformers.RobertaModel(config)
    elif family == "mpnet":
        model = transformers.MPNetModel(transformers.MPNetConfig(**wide, pad_token_id=1))
    elif family == "distilbert":
        config = transformers.DistilBertConfig(
            vocab_size=200, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=300, activation="relu"
        )
        model = transformers.DistilBertModel(config)
    else:
        config = transformers.T5Config(
            vocab_size=200, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, pad_token_id=0
        )
        model = transformers.T5EncoderModel(config)
    with torch.no_grad():  # as initialised, every text looks alike: spread them
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(base)
    parts: list[Any] = [modules.Transformer(str(base), max_seq_length=window), modules.Pooling(32, pooling)]
    if dense:
        parts.append(modules.Dense(32, 16))
    if normalize:
        parts.append(modules.Normalize())
    SentenceTransformer(modules=parts, prompts=prompts, device="cpu").save(str(folder), safe_serialization=True)
    shutil.rmtree(base)
    return folder


def tiny_static(folder: Path, *, normalize: bool = True, dense: bool = False, prompts: Any = None) -> Path:
    """A vector for each token and their mean, as model2vec makes them; its tokenizer cuts at 256."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from tokenizers import Tokenizer

    base = folder.parent / f"{folder.name}-base"
    _vocabulary(base, "bert")
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    torch.manual_seed(7)
    parts: list[Any] = [modules.StaticEmbedding(tokenizer, embedding_dim=32)]
    if dense:
        parts.append(modules.Dense(32, 16))
    if normalize:
        parts.append(modules.Normalize())
    SentenceTransformer(modules=parts, prompts=prompts, device="cpu").save(str(folder))
    shutil.rmtree(base)
    return folder


@pytest.fixture(scope="session")
def tiny_mpnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("mpnet") / "tiny-mpnet", "mpnet")


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prompts = {"query": "find: ", "document": "passage: "}
    return tiny_model(tmp_path_factory.mktemp("t5") / "tiny-t5", "t5", dense=True, prompts=prompts)


@pytest.fixture(scope="session")
def minilm() -> Embedder:
    return embedders.load("all-MiniLM-L6-v2", device="cpu")


@pytest.fixture(scope="session")
def minilm_onnx(minilm: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / minilm.space.fingerprint
    return embedders.export_query_encoder(minilm, TEXTS, folder)


@pytest.fixture(scope="session")
def t5_onnx(tiny_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    embedder = embedders.load(str(tiny_t5), device="cpu")
    return embedders.export_query_encoder(embedder, TEXTS, tmp_path_factory.mktemp("models") / "t5")


@pytest.fixture(scope="session")
def mpnet_onnx(tiny_mpnet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    embedder = embedders.load(str(tiny_mpnet), device="cpu")
    return embedders.export_query_encoder(embedder, TEXTS, tmp_path_factory.mktemp("models") / "mpnet")


@pytest.fixture(scope="session")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_static(tmp_path_factory.mktemp("static") / "tiny-static")


@pytest.fixture(scope="session")
def static_onnx(static: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    embedder = embedders.load(str(static), device="cpu")
    return embedders.export_query_encoder(embedder, [], tmp_path_factory.mktemp("models") / "static")


KINDS = ("hash", "packed", "onnx", "packed-mpnet", "library", "library-onnx", "static", "static-onnx")


@pytest.fixture(scope="session", params=KINDS)
def embedder(request: pytest.FixtureRequest) -> Embedder:
    def value(name: str) -> Any:
        return request.getfixturevalue(name)

    def opened(folder: Path) -> Embedder:
        space = json.loads((folder / "manifest.json").read_text())["space"]["fingerprint"]
        return embedders.load_query_encoder(folder, space)

    makers: dict[str, Callable[[], Embedder]] = {
        "hash": lambda: embedders.load("hash:64"),
        "packed": lambda: value("minilm"),
        "onnx": lambda: opened(value("minilm_onnx")),
        "packed-mpnet": lambda: embedders.load(str(value("tiny_mpnet")), device="cpu"),
        "library": lambda: embedders.load(str(value("tiny_t5")), device="cpu"),
        "library-onnx": lambda: opened(value("t5_onnx")),
        "static": lambda: embedders.load(str(value("static")), device="cpu"),
        "static-onnx": lambda: opened(value("static_onnx")),
    }
    return makers[request.param]()


# ---------------------------------------------------------------- the contract
def test_shape_type_and_length(embedder: Embedder) -> None:
    for method in (embedder.embed, embedder.embed_queries):
        vectors = method(TEXTS[:8])
        assert vectors.shape == (8, embedder.space.dim)
        assert vectors.dtype == np.float32
        assert np.isfinite(vectors).all()
        if embedder.space.normalized:
            counts = embedder.tokenizer.count(TEXTS[:8])
            said = [1 if count + embedder.tokenizer.special_tokens else 0 for count in counts]
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), said, atol=1e-5)


def test_nothing_in_nothing_out(embedder: Embedder) -> None:
    for method in (embedder.embed, embedder.embed_queries):
        assert method([]).shape == (0, embedder.space.dim)
        assert method([]).dtype == np.float32


def test_a_vector_depends_on_its_text_alone(embedder: Embedder) -> None:
    texts = [text for text in TEXTS if _fits(embedder, text)]
    together = embedder.embed(texts)
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    backwards = embedder.embed(texts[::-1])[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together, backwards, atol=1e-5)
    first, last = texts.index(TEXTS[1]), len(texts) - 1
    np.testing.assert_array_equal(together[first], together[last])  # a duplicate is embedded once
    assert not np.allclose(together[0], together[1], atol=1e-3)


def test_the_same_call_gives_the_same_bits(embedder: Embedder) -> None:
    np.testing.assert_array_equal(embedder.embed(TEXTS[:5]), embedder.embed(TEXTS[:5]))


def test_the_window_is_filled_to_the_last_token_and_not_one_more(embedder: Embedder) -> None:
    room = embedder.space.max_tokens - embedder.tokenizer.special_tokens
    fits = "is " * room
    assert embedder.tokenizer.count([fits]) == [room]
    embedder.embed([fits])
    too_long = "is " * (room + 5)
    with pytest.raises(ModelError, match=r"text 2 has \d+ tokens; the model's window is 256"):
        embedder.embed(["short", fits, too_long, too_long])


def test_a_long_query_is_cut_at_the_window(embedder: Embedder) -> None:
    room = embedder.space.max_tokens - embedder.tokenizer.special_tokens
    vectors = embedder.embed_queries(["is " * (room + 40), "is " * (room + 90), "is it"])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    assert not np.allclose(vectors[0], vectors[2], atol=1e-3)


def test_tokens_lie_in_the_text(embedder: Embedder) -> None:
    tokenizer = embedder.tokenizer
    assert tokenizer.offsets([]) == []
    assert tokenizer.count([]) == []
    for text, offsets, count in zip(TEXTS, tokenizer.offsets(TEXTS), tokenizer.count(TEXTS), strict=True):
        assert len(offsets) == count
        assert all(0 <= start <= end <= len(text) for start, end in offsets)
    assert tokenizer.count(["word " * 5000])[0] >= 5000  # no truncation
    assert len(tokenizer.fingerprint) == 64


_PROSE = [
    "release",
    "Rollback",
    "naïve",
    "e\u0301",
    "東京",
    "[SEP]",
    "[sep]",
    "Foo",
    "foo-bar",
    "x" * 101,
    "don't",
    "3.14",
]
_SIGNS = [*map(chr, range(33, 127)), *"\x00\x0b\x0c\x1c\x1f\x85\xad\u200b\ufffd\u0301。—", "\ud800"]
_GAPS = [chr(code) for code in range(0x3001) if chr(code).isspace()]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.sampled_from([*_PROSE, *_SIGNS, *_GAPS, " "]), max_size=12).map("".join), max_size=4))
def test_tokens_are_counted_as_the_tokenizer_makes_them(minilm_and_foo: TextTokenizer, texts: list[str]) -> None:
    encodings = minilm_and_foo.offsets(texts)
    assert minilm_and_foo.additive
    assert (
        minilm_and_foo.count(texts * 3) == [len(offsets) for offsets in encodings] * 3
    )  # what comes often is remembered


@pytest.fixture(scope="module")
def minilm_and_foo() -> TextTokenizer:
    """all-MiniLM-L6-v2's tokenizer with a token that is a word, wherever it stands."""
    from tokenizers import AddedToken, Tokenizer

    known = embedders.load_tokenizer(embedders.find_model("all-MiniLM-L6-v2"))
    assert isinstance(known, TextTokenizer)
    inner = Tokenizer.from_str(known.definition().decode())
    inner.add_tokens([AddedToken("foo", normalized=True)])
    return TextTokenizer(inner.to_str().encode(), fingerprint="")


def test_what_is_remembered_of_words_is_bounded(minilm_and_foo: TextTokenizer) -> None:
    words = [" ".join([f"{start:x}{end:0999d}"] * 3) for start in range(16) for end in range(200)]
    for text in words:
        assert minilm_and_foo.count([text]) == [3]
    assert sum(map(len, minilm_and_foo._known)) < 2 << 20


def test_a_space_has_every_field(embedder: Embedder) -> None:
    space = embedder.space
    assert len(space.fingerprint) == len(space.weights_sha) == 64
    assert space.max_tokens == 256
    dtype, runtime, device = embedder.numerics.split("/")
    assert dtype == "float32"
    assert "-" in runtime
    assert device == "cpu"


def _fits(embedder: Embedder, text: str) -> bool:
    return embedder.tokenizer.count([text])[0] + embedder.tokenizer.special_tokens <= embedder.space.max_tokens


# ---------------------------------------------------------------- the same vectors
def test_the_default_model_gives_what_encode_gives(minilm: Embedder, minilm_onnx: Path) -> None:
    texts = [TEXTS[i] for i in (0, 1, 2, 3, 4, 5, 7, 8)] + [f"release {i} " * (i + 1) for i in range(40)]
    expected = _encode(embedders.find_model("all-MiniLM-L6-v2").folder, texts, query=False)
    np.testing.assert_allclose(minilm.embed(texts), expected, atol=1e-5)
    onnx = embedders.load_query_encoder(minilm_onnx, minilm.space.fingerprint)
    np.testing.assert_allclose(onnx.embed(texts), expected, atol=1e-5)
    long = ["several words " * 300]
    expected = _encode(embedders.find_model("all-MiniLM-L6-v2").folder, long, query=True)
    np.testing.assert_allclose(onnx.embed_queries(long), expected, atol=1e-5)
    np.testing.assert_allclose(minilm.embed_queries(long), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "pooling", "normalize", "packed"),
    [
        ("bert", "cls", True, True),
        ("bert", "max", False, True),
        ("bert", "mean_sqrt_len_tokens", False, True),
        ("bert", "weightedmean", True, False),
        ("roberta", "mean", True, True),
        ("mpnet", "mean", True, True),
        ("distilbert", "lasttoken", True, True),
        ("t5", "mean", False, False),
    ],
)
def test_other_models_give_what_encode_gives(
    tmp_path: Path, family: str, pooling: str, normalize: bool, packed: bool
) -> None:
    prompts = {"query": "the query: ", "passage": "the same: "}
    folder = tiny_model(tmp_path / "model", family, pooling=pooling, normalize=normalize, prompts=prompts)
    embedder = embedders.load(str(folder), device="cpu", batch_tokens=300)
    assert isinstance(embedder, TorchEmbedder)
    assert embedder.packed is packed
    assert (embedder.space.query_prompt, embedder.space.document_prompt) == ("the query: ", "the same: ")
    assert embedder.space.normalized is normalize
    texts = [text for text in TEXTS if "\ud800" not in text and _fits(embedder, text)]
    assert len(texts) >= 7
    np.testing.assert_allclose(embedder.embed(texts), _encode(folder, texts, query=False), rtol=1e-4, atol=1e-4)
    queries = [*texts, "rollback the release " * 200]
    np.testing.assert_allclose(
        embedder.embed_queries(queries), _encode(folder, queries, query=True), rtol=1e-4, atol=1e-4
    )
    assert not np.allclose(embedder.embed(texts[:1]), embedder.embed_queries(texts[:1]), atol=1e-3)


@pytest.mark.parametrize("shape", ["plain", "dense", "model2vec"])
def test_static_models_give_what_encode_gives(tmp_path: Path, shape: str) -> None:
    prompts = {"query": "the query: ", "passage": "the same: "}
    folder = tiny_static(tmp_path / "model", normalize=shape != "plain", dense=shape == "dense", prompts=prompts)
    if shape == "model2vec":
        as_model2vec(folder)
    embedder = embedders.load(str(folder), device="cpu", batch_tokens=300)
    assert embedder.space.normalized is (shape != "plain")
    texts = [text for text in TEXTS if "\ud800" not in text and _fits(embedder, text)]
    assert len(texts) >= 7
    onnx = embedders.export_query_encoder(embedder, texts, tmp_path / "encoder")
    encoder = embedders.load_query_encoder(onnx, embedder.space.fingerprint)
    queries = [*texts, "rollback the release " * 200]
    for found in (embedder, encoder):
        np.testing.assert_allclose(found.embed(texts), _encode(folder, texts, query=False), atol=2e-3)
        np.testing.assert_allclose(found.embed_queries(queries), _encode(folder, queries, query=True), atol=2e-3)
    np.testing.assert_allclose(embedder.embed(texts), encoder.embed(texts), atol=1e-5)
    assert not np.allclose(embedder.embed(texts[:1]), embedder.embed_queries(texts[:1]), atol=1e-2)


def as_model2vec(folder: Path) -> None:
    """As its own files are: half precision, tokens that share a vector and weigh differently."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    table = tensors["embedding.weight"].astype(np.float16)
    mapping = np.arange(len(table), dtype=np.int64)
    mapping[10:20] = 10
    weights = np.linspace(0.2, 2, len(table), dtype=np.float32)
    save_file({"embeddings": table, "mapping": mapping, "weights": weights}, folder / "model.safetensors")
    file = folder / "modules.json"
    modules = json.loads(file.read_text())
    modules[0] |= {"path": ".", "type": "sentence_transformers.models.StaticEmbedding"}
    file.write_text(json.dumps(modules))


def test_a_static_model_without_a_bound_reads_all_of_a_text(tmp_path: Path) -> None:
    folder = tiny_static(tmp_path / "model")
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"truncation": None}))
    embedder = embedders.load(str(folder), device="cpu")
    assert embedder.space.max_tokens == 2048
    text = "is the " * 600 + "release"
    np.testing.assert_allclose(embedder.embed_queries([text])[0], embedder.embed([text])[0], atol=1e-6)
    (folder / "model.safetensors").write_bytes(b"\x00" * 30)
    with pytest.raises(ModelError, match="holds no table of vectors"):
        embedders.identify(embedders.find_model(str(folder)))


def test_a_tokenizer_is_made_of_a_vocabulary(tmp_path: Path) -> None:
    """As the models of old keep it; what the vectors are does not depend on which of the two is there."""
    folder = tiny_model(tmp_path / "model", "bert")
    whole = embedders.load(str(folder), device="cpu")
    known = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in sorted(known, key=known.__getitem__)))
    file = folder / "tokenizer_config.json"
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 256}
    file.write_text(json.dumps(settings))
    files = embedders.find_model(str(folder))
    made = embedders.load(str(folder), device="cpu")
    assert isinstance(made.tokenizer, TextTokenizer)
    np.testing.assert_allclose(made.embed(TEXTS[:8]), whole.embed(TEXTS[:8]), atol=1e-6)
    np.testing.assert_allclose(made.embed(TEXTS[:6]), _encode(folder, TEXTS[:6], query=False), rtol=1e-4, atol=1e-4)
    encoder = embedders.export_query_encoder(made, [], tmp_path / "encoder")
    found = embedders.load_query_encoder(encoder, made.space.fingerprint)
    np.testing.assert_allclose(found.embed(TEXTS[:8]), made.embed(TEXTS[:8]), atol=1e-4)
    assert embedders.identify(files) == made.space
    token = files.stat_token()
    with (folder / "vocab.txt").open("a") as words:
        words.write("penguin\n")
    assert files.stat_token() != token
    assert embedders.identify(files).fingerprint != made.space.fingerprint
    file.write_text(json.dumps(settings | {"do_lower_case": False}))
    assert embedders.load_tokenizer(files).fingerprint != made.tokenizer.fingerprint
    (folder / "vocab.txt").unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer.json, nor a vocabulary"):
        embedders.identify(files)


def test_an_exported_model_gives_the_same_at_every_length(tiny_mpnet: Path, mpnet_onnx: Path) -> None:
    embedder = embedders.load(str(tiny_mpnet), device="cpu")
    encoder = embedders.load_query_encoder(mpnet_onnx, embedder.space.fingerprint)
    texts = ["is " * n for n in (0, 1, 2, 63, 64, 130, 250)] + ["the <pad> is <pad>"]
    np.testing.assert_allclose(encoder.embed(texts), embedder.embed(texts), atol=1e-4)


def _encode(folder: Path, texts: list[str], *, query: bool) -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    prompts = model.prompts
    return model.encode(texts, prompt=prompts["query"] if query else prompts.get("passage", ""))


# ---------------------------------------------------------------- spaces
def test_a_space_follows_what_can_change_a_vector(tiny_mpnet: Path, tmp_path: Path) -> None:
    original = embedders.identify(embedders.find_model(str(tiny_mpnet)))
    moved = shutil.copytree(tiny_mpnet, tmp_path / "elsewhere")
    files = embedders.find_model(str(moved))
    assert embedders.identify(files).fingerprint == original.fingerprint  # the place and the name do not count
    token = files.stat_token()

    def changed(name: str, **settings: Any) -> str:
        path = moved / name
        before = path.read_bytes()
        path.write_text(json.dumps({**json.loads(before), **settings}))
        fingerprint = embedders.identify(embedders.find_model(str(moved))).fingerprint
        assert embedders.find_model(str(moved)).stat_token() != token
        path.write_bytes(before)
        return fingerprint

    seen = {
        original.fingerprint,
        changed("sentence_bert_config.json", max_seq_length=128),
        changed("1_Pooling/config.json", pooling_mode="cls"),
        changed("config_sentence_transformers.json", prompts={"query": "q: "}),
        changed("config_sentence_transformers.json", prompts={"document": "q: "}),
        changed("config.json", layer_norm_eps=1e-3),
        changed("tokenizer.json", added_tokens=[]),
    }
    assert len(seen) == 7
    assert changed("config.json", transformers_version="9.9") == original.fingerprint
    assert changed("config.json", _name_or_path="another") == original.fingerprint


def test_the_prompt_counts_in_the_window(tiny_t5: Path) -> None:
    files = embedders.find_model(str(tiny_t5))
    tokenizer = embedders.load_tokenizer(files)
    prompt = tokenizer.count(["passage: "])[0]
    assert tokenizer.special_tokens == 2 + prompt + 1
    assert tokenizer.fingerprint == embedders.load(str(tiny_t5), device="cpu").tokenizer.fingerprint


def test_lower_casing_keeps_offsets(tmp_path: Path, tiny_mpnet: Path) -> None:
    folder = shutil.copytree(tiny_mpnet, tmp_path / "cased")
    definition = json.loads((folder / "tokenizer.json").read_text())
    definition["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    cased = embedders.load_tokenizer(embedders.find_model(str(folder)))
    settings = json.loads((folder / "sentence_bert_config.json").read_text())
    (folder / "sentence_bert_config.json").write_text(json.dumps({**settings, "do_lower_case": True}))
    files = embedders.find_model(str(folder))
    lower = embedders.load_tokenizer(files)
    text = "İ XYZ RELEASE"  # in lower case, the first letter is two code points
    assert cased.count([text]) == [3]
    assert lower.count([text])[0] > 3
    start, end = lower.offsets([text])[0][-1]
    assert text[start:end] == "RELEASE"
    assert cased.fingerprint != lower.fingerprint
    assert (
        embedders.identify(files).fingerprint != embedders.identify(embedders.find_model(str(tiny_mpnet))).fingerprint
    )


# ---------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    "name",
    ["", "./nowhere", "/nowhere/at/all", "a/b/c", "what:64", "hash:", "hash:x", "hash:0", "hash:99999", "C:\\model"],
)
def test_a_name_that_is_no_model(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        embedders.load(name)
    assert caught.value.hint
    assert repr(name) in caught.value.message or name in caught.value.message


def test_a_hub_name_without_a_network_is_a_clear_error() -> None:
    code = "from ragops import embedders; embedders.load('nobody/no-such-model')"
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert "ModelError: model 'nobody/no-such-model' is not in the local cache of the hub" in done.stderr
    assert "hf download nobody/no-such-model" in done.stderr


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        embedders.load(str(tmp_path))


class _Trap:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


def test_pickles_are_never_loaded(tmp_path: Path, tiny_t5: Path) -> None:
    folder = shutil.copytree(tiny_t5, tmp_path / "model")
    trace = tmp_path / "trace"
    for place in (folder, folder / "2_Dense"):
        (place / "pytorch_model.bin").write_bytes(pickle.dumps(_Trap(trace)))
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert trace.exists()  # the trap works
    trace.unlink()
    embedders.load(str(folder), device="cpu").embed(["a text"])
    assert not trace.exists()
    for place in (folder / "2_Dense", folder):
        (place / "model.safetensors").rename(tmp_path / "aside")
        with pytest.raises(ModelError, match=r"has only pytorch_model\.bin, which can run code"):
            embedders.load(str(folder), device="cpu")
        (tmp_path / "aside").rename(place / "model.safetensors")
    assert not trace.exists()


def test_other_weights_than_expected_are_refused(tiny_mpnet: Path) -> None:
    files = embedders.find_model(str(tiny_mpnet))
    found = embedders.identify(files).weights_sha
    assert embedders.identify(files, found).weights_sha == found
    assert embedders.load(str(tiny_mpnet), device="cpu", expected_sha=found).space.weights_sha == found
    with pytest.raises(ModelError) as caught:
        embedders.load(str(tiny_mpnet), device="cpu", expected_sha="0" * 64)
    assert found in caught.value.message
    assert "0" * 64 in caught.value.message
    with pytest.raises(ModelError, match="not those expected"):
        embedders.load("hash:64", expected_sha="0" * 64)


def test_the_default_model_is_pinned() -> None:
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        files = embedders.find_model(name)
        assert files.name == "all-MiniLM-L6-v2"
        assert files.pin == embedders.identify(files).weights_sha
        with pytest.raises(ModelError, match="not those expected"):
            embedders.identify(files, "1" * 64)


def test_damaged_weights_are_refused(tmp_path: Path, tiny_mpnet: Path) -> None:
    folder = shutil.copytree(tiny_mpnet, tmp_path / "model")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (b"", whole[:100], whole[:-100], b"\xff" * len(whole)):
        weights.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
            embedders.load(str(folder), device="cpu")


def test_incomplete_weights_are_refused(tmp_path: Path, tiny_mpnet: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(tiny_mpnet, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    lost = tensors.pop("encoder.layer.1.output.dense.weight")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"its weights lack encoder\.layer\.1\.output\.dense\.weight"):
        embedders.load(str(folder), device="cpu")
    tensors["encoder.layer.1.output.dense.weight"] = np.full_like(lost, np.nan)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match="not finite for the text 'a text'"):
        embedders.load(str(folder), device="cpu").embed(["a text"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", '{"auto_map": {"AutoModel": "x.Y"}, "hidden_size": 32}', "brings its own code"),
        ("config.json", '{"model_type": "bert"}', "does not tell the width"),
        ("modules.json", '[{"path": "../elsewhere", "type": "a"}]', "points outside of the model"),
        ("modules.json", '[{"path": "", "type": "evil.Module"}]', "built of evil.Module"),
        (
            "modules.json",
            '[{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]',
            "model.safetensors",
        ),
        ("modules.json", "[]", "modules.json"),
        ("modules.json", "{}", "modules.json"),
        ("modules.json", "[3]", "modules.json"),
        ("tokenizer.json", "{}", "tokenizer.json cannot be read"),
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("model.safetensors", None, "no model.safetensors"),
        ("1_Pooling/config.json", '{"pooling_mode": "middle"}', "middle"),
    ],
)
def test_a_model_that_cannot_be_run_faithfully(
    tmp_path: Path, tiny_mpnet: Path, name: str, content: str | None, message: str
) -> None:
    folder = shutil.copytree(tiny_mpnet, tmp_path / "model")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(ModelError) as caught:
        embedders.identify(embedders.find_model(str(folder)))
    assert message in caught.value.message
    assert caught.value.hint


def test_an_unknown_device(tiny_mpnet: Path) -> None:
    for device in ("warp", "cuda:99", "meta"):
        with pytest.raises(UsageError, match=f"device '{device}' cannot be used"):
            embedders.load(str(tiny_mpnet), device=device)


# ---------------------------------------------------------------- the query encoder
def test_the_query_encoder_needs_no_torch(minilm: Embedder, minilm_onnx: Path) -> None:
    code = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "sentence_transformers", "onnx", "safetensors",
                                      "huggingface_hub"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
from pathlib import Path
from ragops import embedders
encoder = embedders.load_query_encoder(Path(sys.argv[1]), sys.argv[2])
import json
print(json.dumps(encoder.embed_queries(["what is a release?"])[0].tolist()))
"""
    arguments = [sys.executable, "-c", code, str(minilm_onnx), minilm.space.fingerprint]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(done.stdout), minilm.embed_queries(["what is a release?"])[0], atol=1e-5)


def test_importing_is_cheap() -> None:
    code = "import sys, ragops.embedders; print(*{'numpy', 'torch', 'tokenizers', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_export_is_complete_and_says_what_was_compared(minilm: Embedder, minilm_onnx: Path) -> None:
    assert sorted(path.name for path in minilm_onnx.iterdir()) == ["manifest.json", "model.onnx", "tokenizer.json"]
    assert [path.name for path in minilm_onnx.parent.iterdir()] == [minilm_onnx.name]  # no drafts
    manifest = json.loads((minilm_onnx / "manifest.json").read_text())
    assert float(manifest["compared"]["min_cosine"]) > 0.9999
    assert manifest["compared"]["texts"] > len(TEXTS)
    assert manifest["compared"]["with"] == minilm.numerics
    assert b"ragops/embedders" not in (minilm_onnx / "model.onnx").read_bytes()  # no stack traces of this machine
    before = {path.name: path.stat().st_mtime_ns for path in minilm_onnx.iterdir()}
    assert embedders.export_query_encoder(minilm, TEXTS, minilm_onnx) == minilm_onnx
    assert {path.name: path.stat().st_mtime_ns for path in minilm_onnx.iterdir()} == before  # a sound one is kept


def test_two_exports_are_the_same_bytes(tmp_path: Path, tiny_mpnet: Path, mpnet_onnx: Path) -> None:
    again = embedders.export_query_encoder(embedders.load(str(tiny_mpnet), device="cpu"), TEXTS, tmp_path / "again")
    for name in ("manifest.json", "model.onnx", "tokenizer.json"):
        assert (again / name).read_bytes() == (mpnet_onnx / name).read_bytes()


@pytest.fixture
def encoder_copy(t5_onnx: Path, tmp_path: Path) -> tuple[Path, str]:
    folder = shutil.copytree(t5_onnx, tmp_path / "encoder")
    return folder, json.loads((folder / "manifest.json").read_text())["space"]["fingerprint"]


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "manifest.json"])
def test_a_damaged_encoder_is_refused(encoder_copy: tuple[Path, str], name: str) -> None:
    folder, space = encoder_copy
    whole = (folder / name).read_bytes()
    for damaged in (whole[:-2], b"", None):
        if damaged is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(damaged)
        with pytest.raises(ModelError) as caught:
            embedders.load_query_encoder(folder, space)
        assert "ragops ingest" in caught.value.hint
        assert str(folder) in caught.value.message


def test_an_export_mends_a_damaged_encoder(tiny_t5: Path, encoder_copy: tuple[Path, str]) -> None:
    folder, space = encoder_copy
    (folder / "model.onnx").write_bytes(b"damaged")
    (folder.parent / ".encoder.killed").mkdir()  # what a killed export leaves
    embedders.export_query_encoder(embedders.load(str(tiny_t5), device="cpu"), [], folder)
    assert embedders.load_query_encoder(folder, space).embed_queries(["is it"]).shape == (1, 16)
    assert [path.name for path in folder.parent.iterdir()] == ["encoder"]


def test_an_encoder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ModelError, match="cannot be written"):
        embedders.export_query_encoder(embedders.load("hash:8"), [], tmp_path / "file" / "encoder")


def test_an_encoder_of_another_space_is_refused(encoder_copy: tuple[Path, str]) -> None:
    with pytest.raises(SpaceMismatch, match="tiny-t5"):
        embedders.load_query_encoder(encoder_copy[0], "0" * 64)


def test_an_encoder_of_a_newer_ragops_is_refused_and_kept(tiny_t5: Path, encoder_copy: tuple[Path, str]) -> None:
    folder, space = encoder_copy
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "schema": 99}))
    with pytest.raises(SchemaError, match="newer ragops"):
        embedders.load_query_encoder(folder, space)
    with pytest.raises(SchemaError):
        embedders.export_query_encoder(embedders.load(str(tiny_t5), device="cpu"), [], folder)
    assert json.loads((folder / "manifest.json").read_text())["schema"] == 99


def test_an_export_that_gives_other_vectors_leaves_nothing(tmp_path: Path, tiny_mpnet: Path) -> None:
    from safetensors.numpy import load_file, save_file

    model = shutil.copytree(tiny_mpnet, tmp_path / "model")
    embedder = embedders.load(str(model), device="cpu")
    tensors = load_file(model / "model.safetensors")  # the files change under the loaded model
    tensors["embeddings.word_embeddings.weight"] = tensors["embeddings.word_embeddings.weight"][::-1].copy()
    save_file(tensors, model / "model.safetensors")
    with pytest.raises(ModelError, match=r"does not give the model's vectors"):
        embedders.export_query_encoder(embedder, TEXTS[:2], tmp_path / "models" / "encoder")
    assert list((tmp_path / "models").iterdir()) == []


def test_the_hash_embedder_is_exported_too(tmp_path: Path) -> None:
    embedder = embedders.load("hash:32")
    folder = embedders.export_query_encoder(embedder, TEXTS, tmp_path / "models" / embedder.space.fingerprint)
    opened = embedders.load_query_encoder(folder, embedder.space.fingerprint)
    np.testing.assert_array_equal(opened.embed_queries(["a query"]), embedder.embed(["a query"]))
    with pytest.raises(SpaceMismatch):
        embedders.load_query_encoder(folder, embedders.load("hash:64").space.fingerprint)


# ---------------------------------------------------------------- plugins
PLUGIN = """
from ragops.embedders.hashed import HashEmbedder
from dataclasses import replace

def make(rest, device):
    embedder = HashEmbedder(16)
    name = "wrong" if rest == "wrong" else f"third:{rest}"
    embedder.space = replace(embedder.space, model=name, fingerprint="f" * 64)
    return embedder
"""


def test_a_third_party_plugs_in_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "third_party_embedder.py").write_text(PLUGIN)
    info = tmp_path / "third_party_embedder-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party-embedder\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ragops.embedders]\nthird = third_party_embedder:make\n")
    monkeypatch.syspath_prepend(tmp_path)
    embedder = embedders.load("third:anything")
    files = embedders.find_model("third:anything")
    assert embedders.identify(files) == embedder.space
    assert embedders.load_tokenizer(files).fingerprint == embedder.tokenizer.fingerprint
    folder = embedders.export_query_encoder(embedder, TEXTS, tmp_path / "encoder")
    opened = embedders.load_query_encoder(folder, "f" * 64)
    np.testing.assert_array_equal(opened.embed(["a"]), embedder.embed(["a"]))
    with pytest.raises(ModelError, match="calls its space 'wrong'"):
        embedders.load("third:wrong")


# ---------------------------------------------------------------- properties
@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 2000), st.booleans())
def test_a_plan_holds_every_text_once_within_the_budget(lengths: list[int], budget: int, padded: bool) -> None:
    batches = plan(lengths, budget, padded=padded)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(lengths, reverse=True)
    for batch in batches:
        sizes = [lengths[index] for index in batch]
        cost = max(sizes) * len(sizes) if padded else sum(sizes)
        assert cost <= budget or len(batch) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=80), max_size=8))
def test_hash_vectors_are_unit_and_stable(texts: list[str]) -> None:
    embedder = embedders.load("hash:24")
    vectors = embedder.embed(texts)
    assert vectors.shape == (len(texts), 24)
    assert (vectors != 0).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_array_equal(embedder.embed([text])[0], vector)


def test_texts_that_share_words_are_similar_to_the_hash_embedder() -> None:
    a, b, c = embedders.load("hash:256").embed(["the quick brown fox", "a quick brown fox", "other words entirely"])
    assert a @ b > 0.6 > 0.3 > a @ c


def test_every_batch_runs_whatever_the_order(minilm: Embedder) -> None:
    """More batches than lanes: vectors land in their own rows."""
    texts = [f"release number {i} " * (1 + i * 7 % 23) for i in range(150)]
    vectors = minilm.embed(texts)
    for index in (0, 1, 77, 149):
        np.testing.assert_allclose(vectors[index], minilm.embed([texts[index]])[0], atol=1e-5)
