"""Who looks at the pages: a signed cookie that names a key, for an hour; never the key itself.

A session ends with its key, when that is revoked, expires or is made anew; nothing is kept on this side.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from pathlib import Path

from ragops import durable
from ragops.errors import StoreError
from ragops.keys import Key, Keys

FILE = "pages.key"  # below .ragops
SECONDS = 3600
_SESSION = re.compile(r"([0-9a-f]{12})\.([0-9]{1,12})\.([0-9a-f]{32})\.([0-9a-f]{64})")
_NONCE = re.compile(r"[0-9a-f]{32}")


class Sessions:
    """Signs and checks cookies, with a secret that all workers of a workspace share."""

    def __init__(self, keys: Keys, local: Path) -> None:
        """`local`: the workspace's folder `.ragops`. Raises StoreError."""
        self._keys = keys
        self._secret = _secret(local / FILE)

    def begin(self, key: Key, cookie: str = "") -> str:
        """The cookie of a session from now on; with the `cookie` of one, of the same."""
        match = _SESSION.fullmatch(cookie)
        payload = f"{key.id}.{int(time.time()) + SECONDS}.{match[3] if match else secrets.token_hex(16)}"
        return f"{payload}.{self._sign('session', payload, key.digest)}"

    def key(self, cookie: str) -> Key | None:
        """The key of a session that lasts. Raises StoreError where the keys cannot be read."""
        match = _SESSION.fullmatch(cookie)
        if match is None or int(match[2]) <= time.time():
            return None
        key = next((each for each in self._keys.all() if each.id == match[1]), None)
        if key is None or key.state() != "active":
            return None
        signed = self._sign("session", cookie.rpartition(".")[0], key.digest)
        return key if hmac.compare_digest(signed, match[4]) else None

    def ages(self, cookie: str) -> bool:
        """Whether half of its time is over."""
        match = _SESSION.fullmatch(cookie)
        return match is not None and int(match[2]) - time.time() < SECONDS / 2

    def login(self, token: str) -> Key | None:
        """The active key that somebody shows. Raises StoreError."""
        return self._keys.find(token.strip())

    # ------------------------------------------------------------ forms
    def form(self, cookie: str) -> str:
        """What a form holds, so that only a page of this session (or of this nonce) can send it."""
        match = _SESSION.fullmatch(cookie)
        return self._sign("form", match[3] if match else cookie)

    def sent(self, cookie: str, token: str) -> bool:
        """Whether a form came from such a page."""
        known = _SESSION.fullmatch(cookie) or _NONCE.fullmatch(cookie)
        return known is not None and hmac.compare_digest(self.form(cookie).encode(), token.encode("utf-8", "replace"))

    @staticmethod
    def nonce(cookie: str) -> str:
        """The cookie of somebody without a session, who is given one."""
        return cookie if _NONCE.fullmatch(cookie) else secrets.token_hex(16)

    def _sign(self, *parts: str) -> str:
        return hmac.new(self._secret, "\n".join(parts).encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def _secret(path: Path) -> bytes:
    """The secret of a workspace, made by whoever needs it first."""
    try:
        durable.make_folder(path.parent)
        if not path.exists():
            draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
            durable.write_atomic(draft, secrets.token_hex(32).encode(), mode=0o600)
            try:
                os.link(draft, path)  # of several workers one is first
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        found = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read or made: {error.strerror}", "Check who owns the folder.") from error
    if not re.fullmatch(rb"[0-9a-f]{64}", found):
        raise StoreError(f"{path}, the secret of the pages' sessions, is damaged", "Remove it: people log in again.")
    return bytes.fromhex(found.decode())
