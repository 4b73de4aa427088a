"""The files that make a folder a workspace. What is there is left as it is; what git and DVC must ignore is added."""

from __future__ import annotations

from pathlib import Path

PARAMS = """\
# The settings of this knowledge base. Every key has the default shown; an unknown key is an error.
version: 1

# Where documents come from. `ragops ingest FOLDER` adds an entry here.
sources: []
#  - name: docs                # part of every document's URI: docs:/guide/install.md
#    connector: files          # files: a folder; records: rows of a JSONL, CSV or Parquet file
#    path: docs                # relative to this file, or absolute
#    include: ["**/*.md"]      # globs; default: everything
#    exclude: ["drafts/**"]
#    tenant: acme              # permissions that every document of this source carries
#    groups: [staff]
#    snapshot: bytes           # manifest: keep no copy of the bytes, as they are versioned where they come from

parse:
  workers: 0                   # parser processes; 0: one per core
  timeout: 60                  # seconds of CPU for one file; what takes longer is rejected, and tried again
  memory_mb: 2048              # memory for one file

chunk:
  size: null                   # tokens of text in a chunk, at most; null: 160, or what the model's window leaves
  overlap: 0                   # tokens repeated from the chunk before

embed:
  model: all-MiniLM-L6-v2      # a sentence-transformers model by name or path
  # sha256: 53aa5117...        # pin the weights; any other file is refused
  device: auto                 # auto, cpu, cuda, cuda:1, mps

store:
  collection: main
  # url: http://localhost:6333 # a Qdrant server instead of the embedded engine; its key: QDRANT_API_KEY

release:
  keep: 5                      # releases kept beside the live one
  max_delete: 0.2              # deleting a larger share of more than 20 documents needs --allow-deletes
  gate: null                   # what a release must show before it is published: {metric: nDCG@10, margin: 0.01}

evaluate:                      # docs/evaluation.md; name the files in dvc.yaml, too
  queries: null                # questions with what they should find: evaluation/questions.yaml
  qrels: null                  # judgements, where they are a file of their own
  mode: hybrid
  rerank: null

search:
  k: 10
  mode: hybrid                # dense (by vectors), bm25 (by words), or both

serve:                         # `ragops serve`
  limits: memory               # where rates are counted; for more than one worker: redis://host:6379/0
  rate: 600/minute             # of a key without its own; a batch of n counts n
  max_k: 100
  max_offset: 1000
  max_batch: 64                # queries in one request
  max_text: 4000               # characters of a query
  max_body_kb: 256
  concurrency: 64              # requests at once in one worker; more are told to come again
  timeout: 30                  # seconds for one request
  batch_ms: 0                  # how long a query waits for others, to be embedded together
  rerank: []                   # cross-encoders that may be asked for, by name or folder
"""

DVC = """\
# From the snapshot of the sources to a searchable release. `ragops ingest` does all of it at the cost of what changed
# and records it here, so that `dvc status` is clean; `dvc repro` does it in a clone, or after a change of params.yaml.
# The snapshot is tracked by data/snapshot.dvc: fetching is no stage, as a reproduction must not see today's world.
stages:
  parse:
    desc: the snapshot's bytes to documents and rejects
    cmd: ragops stage parse
    deps:
      - data/snapshot
    params:
      - parse
    outs:
      - data/dataset/documents:
          persist: true
      - data/dataset/rejects:
          persist: true
  chunk:
    desc: documents to chunks, by the model's own tokenizer
    cmd: ragops stage chunk
    deps:
      - data/dataset/documents
    params:
      - chunk
      - embed
    outs:
      - data/dataset/chunks:
          persist: true
  embed:
    desc: chunks to vectors, and the query encoder
    cmd: ragops stage embed
    deps:
      - data/dataset/documents
      - data/dataset/chunks
    params:
      - embed
    outs:
      - data/dataset/vectors:
          persist: true
      - data/models:
          persist: true
    metrics:
      - data/dataset/dataset.json:
          cache: false
          persist: true
    plots:
      - data/dataset/sources.csv:
          cache: false
          persist: true
          template: bar_horizontal
          x: chunks
          y: source
  load:
    desc: the dataset into this machine's store, as a release
    cmd: ragops stage load
    deps:
      - data/dataset/dataset.json
      - data/dataset/documents
      - data/dataset/chunks
      - data/dataset/vectors
    params:
      - store
    outs:
      - data/loaded.json: # a receipt: a clone has none, so it loads its own collection
          cache: false
          persist: true
  evaluate:
    desc: the query set of params.yaml asked of the release; without one, nothing
    cmd: ragops stage evaluate
    deps: # and the files that evaluate.queries and evaluate.qrels name
      - data/dataset/dataset.json
      - data/loaded.json
    params:
      - evaluate
    metrics:
      - data/evaluation/metrics.json:
          cache: false
          persist: true
    plots:
      - data/evaluation/questions.csv:
          cache: false
          persist: true
          template: bar_horizontal
          x: nDCG@10
          y: question
"""

GITIGNORE = """\
# local state of ragops, and the data, which DVC keeps
/.ragops/
/data/snapshot/
/data/dataset/*/
/data/models/
/data/loaded.json
"""

DVCIGNORE = """\
/.ragops/
__pycache__/
"""

FILES = {"params.yaml": PARAMS, "dvc.yaml": DVC, ".gitignore": GITIGNORE, ".dvcignore": DVCIGNORE}


def write(root: Path) -> None:
    for name, text in FILES.items():
        file = root / name
        if not file.exists():
            file.write_text(text, "utf-8")
        elif name in (".gitignore", ".dvcignore"):
            there = file.read_text("utf-8").splitlines()
            missing = [line for line in text.splitlines() if not line.startswith("#") and line not in there]
            if missing and "/data/" not in there:
                file.write_text("\n".join([*there, *missing, ""]), "utf-8")
