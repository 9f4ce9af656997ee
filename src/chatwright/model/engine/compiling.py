"""The engine's own kernels: compiled once for this machine where it has a C compiler, and called through ctypes.

Without a compiler the engine works with PyTorch's products. What is compiled are this package's own files; the result
is kept under a digest of the sources, the compiler and the processor, in a folder that only its owner may write.
"""

import ctypes
import functools
import os
import platform
import shutil
import subprocess
from pathlib import Path

from chatwright.foundation import storage
from chatwright.foundation.console import say

SOURCES = tuple(Path(__file__).with_name(name) for name in ("products.c", "step.c", "rows.c"))
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC", "-pthread")
_LIMIT_S = 120.0


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The compiled functions, the same for the whole process; None where they cannot be had, which is said."""
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if compiler is None or os.name != "posix":
        return None
    try:
        return ctypes.CDLL(str(compiled(compiler, cache=_cache_dir())))
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        say(f"warning: the engine's kernels could not be compiled, PyTorch's are taken: {told.strip()[:500]}")
        return None


def compiled(compiler: str, *, cache: Path) -> Path:
    """The library, from the cache or made now.

    Raises:
        OSError: the cache cannot be written, or others may write there.
        subprocess.SubprocessError: the compiler refused or took too long.
    """
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    told = cache.stat()
    if told.st_uid != os.getuid() or told.st_mode & 0o022:
        raise PermissionError(f"`{cache}` belongs to others or may be written by them")
    library = cache / f"{_digest(compiler)}.so"
    if not library.exists():
        say("compiling the engine's kernels for this machine, once")
        with storage.publish_file(library) as scratch:
            command = [compiler, *FLAGS, "-o", str(scratch), str(SOURCES[-1]), "-lm"]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_LIMIT_S)  # noqa: S603
    return library


def _digest(compiler: str) -> str:
    """Of all that the library depends on: a folder may be shared by unlike machines."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=_LIMIT_S).stdout  # noqa: S603
    parts = [*(source.read_bytes() for source in SOURCES), version, _processor().encode(), " ".join(FLAGS).encode()]
    return storage.digest_bytes(b"\0".join(parts))[:32]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    features = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    return "\n".join([platform.machine(), *sorted(features)])


def _cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "chatwright" / "kernels"
