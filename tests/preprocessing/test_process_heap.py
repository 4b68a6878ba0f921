"""The heap of a process, as glibc describes it."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from preprocessing.process_heap import ARENAS
from tests.conftest import REPOSITORY

COUNT = """
import ctypes, sys, threading

from preprocessing.process_heap import limit_arenas

if sys.argv[1] == "limited":
    limit_arenas()
libc, together = ctypes.CDLL(None), threading.Barrier(8)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p

def work():
    together.wait()
    libc.malloc(1000)
    together.wait()

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc only")
def test_threads_share_the_arenas(tmp_path):
    heaps = {}
    for name in ("limited", "free"):
        described = tmp_path / name
        subprocess.run([sys.executable, "-c", COUNT, name, str(described)], cwd=REPOSITORY, check=True, timeout=60)
        heaps[name] = described.read_text().count("<heap nr=")
    assert heaps["limited"] <= ARENAS < heaps["free"]
