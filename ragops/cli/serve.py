"""ragops serve"""

from __future__ import annotations

from typing import Annotated

import typer

from ragops.cli.options import WorkspaceOption


def command(
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0: any that is free.")] = 8080,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=256, help="Processes; more than one needs serve.limits: redis://...")
    ] = 1,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Ask for no key. Only on this machine: 127.0.0.1, ::1, localhost.")
    ] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Answer queries over HTTP until stopped (Ctrl-C, SIGTERM). Follows the live release.

    Examples:
      ragops keys create website
      ragops serve
      ragops serve --host 0.0.0.0 --port 80 --workers 4
    """
    from ragops.service.run import serve
    from ragops.workspace import locate

    root = locate(workspace)

    def told(address: str) -> None:
        print(f"{root.name} answers at {address}; the API is described at {address}/openapi.json", flush=True)

    serve(root, host=host, port=port, workers=workers, auth=not no_auth, told=told)
