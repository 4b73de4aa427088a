"""The command line: one thin file per command over the functions of the library."""

from __future__ import annotations

import io
import sys
from importlib import import_module
from typing import Any

import typer
import typer.core
import typer.main

from ragops.cli.options import print_json
from ragops.errors import RagopsError

STOPPED = 130

#: Each command is a module of this package, with `command` or, where it has parts, `app`. What stands here is the
#: beginning of its help, so that `ragops --help` imports none of them (a test compares).
COMMANDS = {
    "init": "Make a workspace: params.yaml, dvc.yaml, .gitignore and .dvcignore. Files that exist stay as they are.",
    "ingest": "Bring the searchable release to what the sources say now.",
    "search": "The best passages for a question, with their citations.",
    "why": "Why a document is a hit of a query, stands low, or is none: rejected, hidden, filtered, too far down.",
    "status": "Where the workspace stands: the live release, the sources, the last run, the disk it uses.",
    "releases": "Sealed states of the collection: look, compare, go back, tidy up.",
    "rejects": "Sources that did not pass: why, and what to do.",
    "eval": "Ask a release your own questions, and compare releases by the answers.",
    "serve": "Answer queries over HTTP until stopped (Ctrl-C, SIGTERM). Follows the live release.",
    "keys": "Who may ask the service: API keys, of which only hashes are kept.",
    "mcp": "Serve the knowledge base to an assistant by the Model Context Protocol, over standard input and output.",
    "verify": "Compare the dataset with the release that was made of it, both ways: every point, payload and vector.",
    "recall": "How much of what an exact search finds the approximate index finds, on your own data.",
    "stage": "One stage of the pipeline in dvc.yaml, from what is on disk.",
    "store": "Where the releases live: in the workspace, or on a Qdrant server.",
    "gc": "Forget what nobody needs: parses, vectors and query encoders of old contents and recipes, cached revisions.",
    "backup": "Write the workspace into one file: releases, the live one and its hold, permissions.",
    "restore": "Make a workspace out of a backup. It is unpacked and compared first; only then anything is replaced.",
    "migrate": "Lift what an older ragops wrote to the schema of this one: settings, state, cache.",
    "doctor": "Check what ragops stands on: versions, model, device, disk, store and engine.",
}


class _Commands(typer.core.TyperGroup):
    """Imports the command that is asked for, and none to list them."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: typer.core.TyperCommand(name, help=text) for name, text in COMMANDS.items()}
        self._listing = False

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if self._listing or cmd_name not in COMMANDS:
            return self.commands.get(cmd_name)
        module = import_module(f"ragops.cli.{cmd_name}")
        alone = typer.Typer()
        if hasattr(module, "app"):
            alone.add_typer(module.app, name=cmd_name)
        else:
            alone.command(cmd_name)(module.command)
        return typer.main.get_group(alone).commands[cmd_name]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False


app = typer.Typer(
    name="ragops",
    cls=_Commands,
    help="The operations layer for RAG data: correctness that you can check, at the cost of what changed.",
    epilog='Begin with: ragops ingest ./docs, then: ragops search "your question"',
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
