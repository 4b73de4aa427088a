"""What git and DVC know of a workspace: recording a run, and what stood at a revision. The border around DVC."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

from ragops import config
from ragops.errors import MissingExtra, RagopsError, UsageError

DATASET = "data/dataset/dataset.json"
SNAPSHOT = "data/snapshot"
STAGES = ("parse", "chunk", "embed", "load", "evaluate")
RECORDS = (config.FILE, "dvc.yaml", "dvc.lock", f"{SNAPSHOT}.dvc")
CONFLICT = "<<<<<<<"


class VersioningError(RagopsError):
    """git or DVC could not do what was asked."""


def dvc_root(root: Path) -> Path | None:
    """The DVC repository that the workspace lies in, or None."""
    return next((folder for folder in (root, *root.parents) if (folder / ".dvc" / "config").is_file()), None)


def git_root(root: Path) -> Path | None:
    return next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), None)


def init(root: Path) -> bool:
    """Make a DVC repository of the workspace, where it lies in none: no usage data is sent, and files are linked to its
    cache where the file system can. Whether it was made. Raises VersioningError, MissingExtra."""
    if dvc_root(root) is not None:
        return False
    with _dvc(root):
        from dvc.repo import Repo  # type: ignore[import-untyped]

        git = git_root(root)
        repo = Repo.init(str(root), no_scm=git is None, subdir=git is not None and git != root)
        with repo, repo.config.edit() as settings:
            settings["core"]["analytics"] = False
            settings["cache"]["type"] = ["reflink", "hardlink", "copy"]
    return True


def lacking(root: Path) -> list[str]:
    """What a workspace outside of git or DVC does without, in words."""
    found = []
    if dvc_root(root) is None:
        found.append("no DVC repository: data/ is not versioned, pushed or pulled (make one: ragops init --dvc)")
    if git_root(root) is None:
        found.append("no git repository: no history of params.yaml and dvc.lock, and no `ragops search --rev`")
    return found


def token(root: Path, *data: str | None) -> str:
    """Equal while neither `data` nor what DVC records of it changed. Reads four small files."""
    digest = hashlib.sha256(repr(data).encode())
    for name in RECORDS:
        with contextlib.suppress(FileNotFoundError):
            digest.update(name.encode() + (root / name).read_bytes())
    return digest.hexdigest()


def has_stage(root: Path, name: str) -> bool:
    """Whether dvc.yaml has a stage; False where it cannot be read, which DVC will say better."""
    import yaml

    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        found = yaml.safe_load((root / "dvc.yaml").read_text("utf-8"))
        stages = found.get("stages") if isinstance(found, dict) else None
        return isinstance(stages, dict) and name in stages
    return False


def record(root: Path, *, but: Collection[str] = ()) -> None:
    """Bring dvc.lock and data/snapshot.dvc to what is on disk, and the data into DVC's cache; stages `but` some.

    Raises VersioningError, MissingExtra."""
    for name in RECORDS:
        file = root / name
        if file.is_file() and CONFLICT in file.read_text("utf-8", "replace"):
            raise VersioningError(
                f"{file} holds a merge conflict",
                f"Take either side (git checkout --ours {name}), then run `ragops ingest`: it is brought up to date.",
            )
    if not (root / "dvc.yaml").is_file():
        raise VersioningError(f"there is no dvc.yaml in {root}", "`ragops init` writes one.")
    with _dvc(root):
        from dvc.repo import Repo

        with Repo(str(root)) as repo:
            pipeline = str(root / "dvc.yaml")
            there = [stage.name for stage in repo.stage.load_all(pipeline) if stage.name in STAGES]
            if not there:
                raise VersioningError(
                    f"{pipeline} has none of the stages {', '.join(STAGES)}",
                    "`ragops init` writes them where there is no dvc.yaml; add yours below them.",
                )
            repo.add(str(root / SNAPSHOT))
            for name in there:  # a stage of the user's own is recorded by the `dvc repro` that runs it
                if name in but:
                    continue
                repo.commit(target=f"{pipeline}:{name}", force=True)


def show(root: Path, rev: str, path: str) -> bytes:
    """A file of the workspace as git has it at a revision. Raises UsageError, VersioningError."""
    if git_root(root) is None:
        raise UsageError(f"{root} is not in a git repository, so there is no revision {rev!r}", "See: git init")
    revision = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}")
    if revision.returncode:
        raise UsageError(f"git knows no revision {rev!r}", "List some with: git log --oneline")
    found = _git(root, "show", f"{revision.stdout.decode().strip()}:./{path}")
    if found.returncode:
        raise UsageError(
            f"{path} is not in git at revision {rev!r}, so nothing is known of its answers",
            f"Commit what an ingest writes: git add {DATASET} dvc.lock {SNAPSHOT}.dvc && git commit",
        )
    return found.stdout


def fingerprint(root: Path, rev: str) -> str:
    """Of the dataset that stood at a revision. Raises UsageError, VersioningError."""
    try:
        return str(json.loads(show(root, rev, DATASET))["fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        raise VersioningError(
            f"{DATASET} at revision {rev!r} cannot be read: {error}", "Ask another revision."
        ) from error


def fetch(root: Path, rev: str, path: str, to: Path) -> None:
    """A folder of the workspace's data as it was at a revision, from DVC's cache or else its remote. Raises
    VersioningError, MissingExtra."""
    top = git_root(root)
    if top is None or dvc_root(root) is None:
        raise VersioningError(
            f"{root} is not in a git and DVC repository, so the data of revision {rev!r} cannot be had",
            "Only releases that are still kept can be asked: ragops releases list",
        )
    to.parent.mkdir(parents=True, exist_ok=True)
    with _dvc(root):
        from dvc.api import DVCFileSystem  # type: ignore[import-untyped]

        source = (root.relative_to(top) / path).as_posix()  # the DVC repository may begin below git's
        DVCFileSystem(str(top), rev=rev, subrepos=True).get(source, str(to), recursive=True)


@contextlib.contextmanager
def _dvc(root: Path) -> Iterator[None]:
    """DVC without its own logs and bars. Whatever it raises comes as VersioningError."""
    import logging

    try:
        import dvc.logger  # type: ignore[import-untyped] # noqa: F401
    except ImportError as error:
        raise MissingExtra("DVC is not installed", "pip install 'ragops[ingest]'") from error
    log = logging.getLogger("dvc")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except RagopsError:
        raise
    except Exception as error:
        said = str(error) or type(error).__name__
        cause = f" ({error.__cause__})" if error.__cause__ is not None else ""
        raise VersioningError(f"DVC, in {root}: {said}{cause}", _hint(error)) from error
    finally:
        log.setLevel(before)


def _hint(error: Exception) -> str:
    names = {type(each).__name__ for each in (error, error.__cause__, error.__context__) if each is not None}
    if names & {"LockError"}:
        return "Another DVC command runs here. Once it ended: ragops ingest"
    if names & {"FileMissingError", "FileNotFoundError", "CheckoutError"}:
        return "The remote may lack it: run `dvc push` where it was made, or see `dvc remote list`."
    if names & {"NoRemoteError"}:
        return "The cache of this machine does not have it, and there is no remote: dvc remote add -d NAME URL"
    if names & {"MissingParamsError"}:
        return "Add the section to params.yaml; an empty one does."
    return "See: dvc status -v"


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False, timeout=60)
    except OSError as error:
        raise VersioningError(f"git cannot be run: {error}", "Install git.") from error
