"""ragops eval run | compare | bootstrap"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragops.cli.options import JsonOption, WorkspaceOption, print_json, table

if TYPE_CHECKING:
    from ragops.evaluation.compare import Comparison
    from ragops.evaluation.results import Evaluation

app = typer.Typer(help="Ask a release your own questions, and compare releases by the answers.", no_args_is_help=True)

TEXT = 60  # characters of a question


class Mode(StrEnum):
    dense = "dense"
    bm25 = "bm25"
    hybrid = "hybrid"


@app.command("run")
def run(
    queries: Annotated[
        Path | None,
        typer.Option(
            "--queries", help="Questions: JSONL or TSV, or YAML with what they expect; default: evaluate.queries."
        ),
    ] = None,
    qrels: Annotated[Path | None, typer.Option("--qrels", help="Judgements: BEIR's or TREC's.")] = None,
    mode: Annotated[
        Mode | None, typer.Option("--mode", help="dense, bm25 or hybrid; default: evaluate.mode of params.yaml.")
    ] = None,
    release: Annotated[int | None, typer.Option("--release", help="A kept release instead of the live one.")] = None,
    rerank: Annotated[str | None, typer.Option("--rerank", help="A cross-encoder: folder or hub name.")] = None,
    k: Annotated[
        list[int] | None, typer.Option("-k", help="Cut-off of the measures; again for more. Default: 10.")
    ] = None,
    slice: Annotated[
        list[str] | None,
        typer.Option("--slice", metavar="FIELD", help="Measures by source, tenant, meta.NAME or query.NAME, too."),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every vector, without the index.")] = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Ask a query set and measure the answers. The result is kept, to be compared.

    Examples:
      ragops eval run --queries questions.yaml
      ragops eval run --queries queries.jsonl --qrels qrels/test.tsv --mode dense --json
      ragops eval run --queries queries.jsonl --qrels test.qrels --release 41 --slice meta.lang
    """
    from ragops.cli.progress import Show
    from ragops.errors import UsageError
    from ragops.evaluation import results
    from ragops.workspace import Workspace

    if qrels is not None and queries is None:
        raise UsageError("--qrels without --queries", "Give the questions, too: --queries FILE")
    with Workspace.open(workspace) as found, Show() as show:
        done = found.evaluate(
            queries, qrels, release=release, mode=None if mode is None else mode.value, rerank=rerank, exact=exact,
            k=k or (10,), slices=slice or (), progress=show,
        )  # fmt: skip
    if json:
        print_json(done.as_dict() | {"file": str(found.local / results.FOLDER / f"{done.id}.json")})
    else:
        _print(done)


def _print(done: Evaluation) -> None:
    print(f"release    {done.release}, dataset {done.fingerprint[:12]}, {done.model}, {done.mode}")
    print(f"questions  {done.queries}" + (" (synthetic)" if done.synthetic else ""))
    print(table([("measure", "mean"), *((name, f"{value:.4f}") for name, value in done.metrics.items())]))
    print(f"latency    p50 {done.latency['p50']:.1f} ms, p99 {done.latency['p99']:.1f} ms")
    first = next(iter(done.metrics))
    for field, values in done.slices.items():
        rows = [(value, str(of["queries"]), f"{of['metrics'][first]:.4f}") for value, of in values.items()]
        print(table([(field, "questions", first), *rows]))
    print(f"kept as    {done.id}")
    _warn(done.warnings)


@app.command("compare")
def compare(
    a: Annotated[str, typer.Argument(help="An evaluation's id, the number of a release, or a file: what was.")],
    b: Annotated[str, typer.Argument(help="The same: what is now.")],
    metric: Annotated[str, typer.Option("--metric", help="What is compared.")] = "nDCG@10",
    margin: Annotated[float, typer.Option("--margin", help="A loss up to here is let through.")] = 0.01,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Whether B is worse than A, beyond chance and the margin: pass, fail or inconclusive. Exits with 1 on fail.

    Examples:
      ragops eval compare 41 42
      ragops eval compare 3fa9c0d1e2b3 77ab01c2d3e4 --metric Recall@10 --margin 0.02 --json
    """
    from ragops.workspace import Workspace

    found = Workspace.open(workspace).compare(a, b, metric=metric, margin=margin)
    if json:
        print_json(found.as_dict())
    else:
        _print_comparison(found)
    raise typer.Exit(1 if found.verdict == "fail" else 0)


def _print_comparison(found: Comparison) -> None:
    for name, of in found.of.items():
        print(f"{name}           {of['id']}: release {of['release']}, {of['mode']}, {of['model']}")
    print(f"questions   {found.queries}: {found.better} better, {found.worse} worse, {found.same} the same")
    low, high = found.interval
    print(
        f"{found.metric:<11} {found.a:.4f} -> {found.b:.4f}, {found.difference:+.4f} (95%: {low:+.4f} to {high:+.4f})"
    )
    print(f"chance      p {found.p:.4f}, of such a loss {found.p_worse:.4f}")
    if found.detectable is not None:
        print(f"shows       losses from {found.detectable:.4f} on, in four of five cases")
    for field, values in found.slices.items():
        rows = [
            (value, f"{of['queries']:.0f}", f"{of['a']:.4f}", f"{of['b']:.4f}", f"{of['difference']:+.4f}")
            for value, of in values.items()
        ]
        print(table([(field, "questions", "a", "b", ""), *rows]))
    if found.changed:
        listed = [(each.id, f"{each.a:.3f}", f"{each.b:.3f}", _short(each.text)) for each in found.changed]
        print(table([("changed", "a", "b", "question"), *listed]))
    print(f"verdict     {found.verdict}: {found.reason}")
    _warn(found.warnings)


def _short(text: str) -> str:
    from ragops.cli.search import passage

    line = passage(text)
    return line if len(line) <= TEXT else line[: TEXT - 4] + " ..."


def _warn(warnings: object) -> None:
    for warning in warnings if isinstance(warnings, (list, tuple)) else ():
        print(f"note        {warning}", file=sys.stderr)


@app.command("bootstrap")
def bootstrap(
    output: Annotated[Path, typer.Option("-o", "--output", help="The YAML file to write.")] = Path(
        "evaluation/synthetic.yaml"
    ),
    size: Annotated[int, typer.Option("--size", help="How many questions, at most.")] = 50,
    seed: Annotated[int, typer.Option("--seed", help="Another number, other questions.")] = 0,
    release: Annotated[int | None, typer.Option("--release", help="A kept release instead of the live one.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a file that is there.")] = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """A first query set from the corpus itself: headings and first sentences, and the documents that they stand in.

    It is labelled as synthetic, and so is every result made from it: it shows what broke, not how good answers are.

    Examples:
      ragops eval bootstrap
      ragops eval bootstrap --size 200 --seed 7 -o evaluation/synthetic.yaml --replace
    """
    from ragops.workspace import Workspace

    with Workspace.open(workspace) as found:
        count = found.bootstrap_queries(output, size=size, seed=seed, release=release, replace=replace)
    if json:
        print_json({"file": str(output), "queries": count, "synthetic": True})
        return
    print(f"wrote {count} synthetic questions to {output}; ask them: ragops eval run --queries {output}")
