"""The command line: one thin file per command over the functions of the library."""

from __future__ import annotations

import io
import sys

import typer

from ragops.cli import (
    backup,
    doctor,
    eval,
    gc,
    ingest,
    init,
    keys,
    mcp,
    migrate,
    recall,
    rejects,
    releases,
    restore,
    search,
    serve,
    stage,
    status,
    store,
    verify,
    why,
)
from ragops.cli.options import print_json
from ragops.errors import RagopsError

STOPPED = 130

app = typer.Typer(
    name="ragops",
    help="The operations layer for RAG data: correctness that you can check, at the cost of what changed.",
    epilog='Begin with: ragops ingest ./docs, then: ragops search "your question"',
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("init")(init.command)
app.command("ingest")(ingest.command)
app.command("search")(search.command)
app.command("why")(why.command)
app.command("recall")(recall.command)
app.command("mcp")(mcp.command)
app.command("status")(status.command)
app.command("stage")(stage.command)
app.add_typer(releases.app, name="releases")
app.add_typer(eval.app, name="eval")
app.add_typer(rejects.app, name="rejects")
app.add_typer(store.app, name="store")
app.command("serve")(serve.command)
app.add_typer(keys.app, name="keys")
app.command("verify")(verify.command)
app.command("gc")(gc.command)
app.command("backup")(backup.command)
app.command("restore")(restore.command)
app.command("migrate")(migrate.command)
app.command("doctor")(doctor.command)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True)) -> None:
    if version:
        from importlib.metadata import version as installed

        print(f"ragops {installed('ragops')}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 findings, 2 wrong use or configuration, 3 failed, 130 stopped."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a terminal may lack a document's letters
    try:
        code = app(args=arguments, standalone_mode=False)
        if code == STOPPED:  # typer turned Ctrl-C into its exit code
            raise KeyboardInterrupt
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except RagopsError as error:
        return _report(error.message, error.hint, error.exit_code, as_json="--json" in arguments)
    except KeyboardInterrupt:
        hint = "The live release is whole. Run the same command again: what was computed is kept."
        return _report("stopped", hint, STOPPED, as_json="--json" in arguments)
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away (head, less): nothing to report to
        return 0
    except Exception as error:
        # typer carries its own copy of click, so usage errors are known by what they have
        if not hasattr(error, "exit_code") or not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)
        hint = f"See: {context.command_path} --help" if context is not None else "See: ragops --help"
        return _report(error.format_message(), hint, 2, as_json="--json" in arguments)


def _report(message: str, hint: str, code: int, *, as_json: bool) -> int:
    if as_json:
        print_json({"error": {"message": message, "hint": hint, "exit_code": code}}, indent=None)
    if message:  # none: the help was printed instead
        print(f"error: {message}", file=sys.stderr)
    if hint and message:
        print(hint, file=sys.stderr)
    return code


def entry() -> None:
    """The console script."""
    sys.exit(main())
