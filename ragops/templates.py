"""The files that make a folder a workspace. What is already there is left as it is."""

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

search:
  k: 10
"""

DVC = """\
# `dvc repro` runs the same ingest as the command line; it does nothing where nothing changed.
# DVC keeps the three outputs: what was seen, what was made of it, and the exported query encoder.
stages:
  ingest:
    desc: sources to a versioned dataset and a searchable release
    cmd: ragops ingest
    params:
      - sources
      - parse
      - chunk
      - embed
    always_changed: true # ragops compares sizes, times and contents itself
    outs:
      - data/snapshot:
          persist: true
      - data/dataset:
          persist: true
      - data/models:
          persist: true
"""

GITIGNORE = """\
# local state of ragops; the data itself is DVC's
/.ragops/
/data/
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
