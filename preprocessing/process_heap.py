"""The process's heap: fewer arenas and freed memory given back, with glibc; elsewhere nothing is done."""

from __future__ import annotations

import ctypes
import os

ARENAS = 2  # one a core, as on the machine it was measured on; glibc takes up to eight a core
M_ARENA_MAX = -8  # malloc.h


def limit_arenas() -> None:
    """Lets threads share the heap: each arena keeps what its threads free, and decoders have a thread a core.

    To be called before threads start: those which have an arena keep it.
    """
    if (mallopt := _glibc("mallopt")) is not None:
        mallopt(M_ARENA_MAX, ARENAS)


def return_freed_memory() -> None:
    """Gives memory that was freed back to the system."""
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)


def _glibc(name: str) -> ctypes._NamedFuncPointer | None:
    """A function of the C library; None if it is not glibc, whose functions these are."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
