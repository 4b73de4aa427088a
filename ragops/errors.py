"""The error tree. Every message says what happened and where; `hint` says what to do next."""

from __future__ import annotations

UPGRADE = "Upgrade: pip install -U ragops"


class RagopsError(Exception):
    """Base of all errors that ragops raises on purpose.

    `exit_code` follows the command line's contract: 1 findings, 2 wrong use or configuration,
    3 failed or held back for consent.
    """

    exit_code = 3

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[type[RagopsError], tuple[str, str]]:
        return type(self), (self.message, self.hint)  # errors cross process borders whole


class UsageError(RagopsError):
    """The caller asked for something that cannot be: a missing folder, an unknown option."""

    exit_code = 2


class ConfigError(UsageError):
    """params.yaml or a setting is wrong; the message names the file and line."""


class MissingExtra(UsageError):
    """A capability needs a package that is not installed; the hint is the exact install."""


class SchemaError(UsageError):
    """An artefact was written by a newer ragops."""

    @classmethod
    def newer(cls, what: object, found: int, known: int) -> SchemaError:
        """`what` carries the schema version `found`, of which this ragops knows nothing beyond `known`."""
        return cls(f"{what} was written by a newer ragops (schema {found}; this one knows {known})", UPGRADE)


class ScanError(RagopsError):
    """A connector could not list its source; nothing is deleted because of it."""


class FetchError(RagopsError):
    """One source could not be read. `transient` ones are tried again at the next run."""

    def __init__(self, message: str, hint: str = "", *, code: str = "unreadable", transient: bool = True) -> None:
        super().__init__(message, hint)
        self.code = code
        self.transient = transient

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return _rebuilt, (type(self), self.message, self.hint, self.code, self.transient)


class Vanished(FetchError):
    """A source was there when it was listed and is gone: deleted, not broken."""


class ParseError(RagopsError):
    """One source could not be parsed; `code` is one of `types.REJECT_CODES`."""

    def __init__(self, message: str, hint: str = "", *, code: str = "damaged", transient: bool = False) -> None:
        super().__init__(message, hint)
        self.code = code
        self.transient = transient

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return _rebuilt, (type(self), self.message, self.hint, self.code, self.transient)


def _rebuilt(
    cls: type[FetchError] | type[ParseError], message: str, hint: str, code: str, transient: bool
) -> FetchError | ParseError:
    return cls(message, hint, code=code, transient=transient)


class ModelError(RagopsError):
    """A model is unknown, incomplete, unsafe, or not the one that was pinned."""

    exit_code = 2


class SpaceMismatch(RagopsError):
    """Vectors of one space met a collection of another."""

    exit_code = 2


class StoreError(RagopsError):
    """The vector store refused, failed or is damaged."""


class DiskFull(StoreError):
    """Not enough free space to go on; nothing was published."""


class Locked(RagopsError):
    """Another process holds the workspace."""
