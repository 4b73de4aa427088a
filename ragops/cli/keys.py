"""ragops keys create|list|revoke"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragops.cli.options import JsonOption, WorkspaceOption, names, print_json, table

if TYPE_CHECKING:
    from ragops.keys import Key, Keys

app = typer.Typer(help="Who may ask the service: API keys, of which only hashes are kept.", no_args_is_help=True)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="A name for it: the app or the person that uses it.")],
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="See this tenant's documents; default: those of no tenant.")
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option("--groups", help="Only documents without groups, or of one of these: a,b; default: all groups."),
    ] = None,
    all_tenants: Annotated[bool, typer.Option("--all-tenants", help="See the documents of every tenant.")] = False,
    scopes: Annotated[
        str, typer.Option("--scopes", help="What it may do: search, read, feedback, admin.")
    ] = "search,read,feedback",
    rate: Annotated[
        str | None, typer.Option("--rate", help="Such as 60/minute; default: serve.rate of params.yaml.")
    ] = None,
    expires: Annotated[str | None, typer.Option("--expires", help="90d, 12h, 4w, or a date: 2027-01-31.")] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Make a key and show it, once. A running service knows it at once.

    Examples:
      ragops keys create website
      ragops keys create acme-app --tenant acme --groups staff,hr --rate 60/minute --expires 90d
      ragops keys create dashboard --all-tenants --scopes search,read,feedback,admin
    """
    from ragops.errors import UsageError

    if tenant is not None and all_tenants:
        raise UsageError("one tenant and all of them are asked at once", "Give one of --tenant and --all-tenants.")
    key, token = _keys(workspace).create(
        name, tenant=None if all_tenants else tenant or "", groups=None if groups is None else names(groups),
        scopes=names(scopes), rate=rate, expires=expires,
    )  # fmt: skip
    if json:
        print_json(key.as_dict() | {"key": token})
        return
    print(f"key      {token}")
    print("         It is not shown again: only its hash is kept.")
    print(f"id       {key.id}")
    print(f"sees     {_sees(key)}")
    print(f"may      {', '.join(key.scopes)}")
    print(f"rate     {key.rate or 'serve.rate of params.yaml'}")
    print(f"expires  {key.expires or 'never'}")


@app.command("list")
def list_(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """The keys that were made, without their secrets.

    Example: ragops keys list
    """
    keys = _keys(workspace).all()
    if json:
        print_json([key.as_dict() for key in keys])
    elif not keys:
        print("no keys; make one: ragops keys create NAME")
    else:
        rows: list[tuple[str, ...]] = [("id", "name", "state", "sees", "may", "rate", "created", "expires")]
        rows += [
            (key.id, key.name, key.state(), _sees(key), ",".join(key.scopes), key.rate or "default", key.created[:10],
             (key.expires or "never")[:10])
            for key in keys
        ]  # fmt: skip
        print(table(rows))


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME|ID", help="The name or the id of a key.")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Refuse a key from now on. A running service refuses it at once.

    Example: ragops keys revoke website
    """
    key = _keys(workspace).revoke(name)
    if json:
        print_json(key.as_dict())
        return
    print(f"revoked {key.name} ({key.id})")


def _keys(workspace: Any) -> Keys:
    from ragops.keys import Keys
    from ragops.workspace import locate

    return Keys(locate(workspace) / ".ragops")


def _sees(key: Key) -> str:
    tenant = "all tenants" if key.tenant is None else f"tenant {key.tenant}" if key.tenant else "no tenant"
    return tenant if key.groups is None else f"{tenant}, groups {','.join(key.groups) or 'none'}"
