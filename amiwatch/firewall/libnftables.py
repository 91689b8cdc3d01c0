"""
The distribution's libnftables, through ctypes: makes tables, chains, sets and rules from nft's own language.

Nothing that an attacker chose may come into a script. It is too slow to be called per ban (``nftables_wire.py``).
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from amiwatch.errors import FirewallError, FirewallPermission

LIBRARY = "libnftables.so.1"

_NO_RIGHTS = "Operation not permitted"


def run(script: str) -> None:
    """
    Carry out an nft script: all of it, or nothing. Takes some hundred microseconds and as long as others' sets need.

    Raises ``FirewallError``, ``FirewallPermission`` without CAP_NET_ADMIN. Ask the kernel something else first: where
    it has no netfilter at all, the library ends the whole process instead of returning an error.
    """
    library = _library()
    # A context keeps what it learned about the table; a fresh one each time costs nothing that matters.
    context = library.nft_ctx_new(0)
    if not context:
        raise FirewallError(f"{LIBRARY} gives no context: there is no memory left.")
    try:
        if library.nft_ctx_buffer_output(context) or library.nft_ctx_buffer_error(context):
            raise FirewallError(f"{LIBRARY} keeps no buffer for its answers: there is no memory left.")
        if library.nft_run_cmd_from_buffer(context, script.encode("ascii")):
            raise _failure(library.nft_ctx_get_error_buffer(context).decode(errors="replace"))
    finally:
        library.nft_ctx_free(context)


def missing() -> str:
    """Say in one sentence what to do where the library is missing; empty where it is there."""
    try:
        _library()
    except FirewallError as error:
        return str(error)
    return ""


@cache
def _library() -> Any:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as exc:
        raise FirewallError(
            f"There is no {LIBRARY}: 'apt-get install libnftables1' (Red Hat: 'dnf install nftables'), or "
            "AMIWATCH_FIREWALL=ipset."
        ) from exc
    context = ctypes.c_void_p
    library.nft_ctx_new.argtypes, library.nft_ctx_new.restype = [ctypes.c_uint32], context
    library.nft_ctx_free.argtypes, library.nft_ctx_free.restype = [context], None
    library.nft_ctx_buffer_output.argtypes = library.nft_ctx_buffer_error.argtypes = [context]
    library.nft_run_cmd_from_buffer.argtypes = [context, ctypes.c_char_p]
    library.nft_ctx_get_error_buffer.argtypes = [context]
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    return library


def _failure(said: str) -> FirewallError:
    first = said.strip().partition("\n")[0].removeprefix("Error: ")
    if _NO_RIGHTS in said:
        return FirewallPermission(f"nftables needs CAP_NET_ADMIN: run as root ({first}).")
    if "syntax error" in first:
        return FirewallError(
            f"libnftables does not take our table ({first}): where AMIWATCH_SET_NAME is a word of nft's own language, "
            "choose another; else update libnftables to 0.9.5 or later."
        )
    return FirewallError(f"libnftables refused: {first}.")
