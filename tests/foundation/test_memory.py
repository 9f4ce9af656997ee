"""Memory that runs out: told from other errors, and said with what was needed, what the limit is and what to do next."""

import resource
import subprocess
import sys

import pytest
import torch

from chatwright.foundation.errors import ExitCode, OutOfMemoryError
from chatwright.foundation.memory import is_out_of_memory, memory_named

CPU = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes"


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (RuntimeError(CPU), True),
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("std::bad_alloc"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("the shapes differ"), False),
        (OSError(28, "No space left on device"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error, is_memory):
    assert is_out_of_memory(error) is is_memory
    with pytest.raises(OutOfMemoryError if is_memory else type(error)), memory_named(kept="all", hint="less"):
        raise error


def test_the_message_says_the_need_and_what_there_is():
    told = r"4,096 bytes more were needed; [\d,]+ bytes are free"
    naming = memory_named(kept="the newest checkpoint", hint="less")
    with pytest.raises(OutOfMemoryError, match=told) as caught, naming:
        raise RuntimeError(CPU)
    assert caught.value.exit_code == ExitCode.FAILED
    assert (caught.value.kept, caught.value.hint) == ("the newest checkpoint", "less")
    assert "DefaultCPUAllocator" in caught.value.cause


LIMITED = """
import resource, torch
from chatwright.foundation.memory import memory_named
resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
try:
    with memory_named(kept="all", hint="less"):
        torch.empty(1 << 40)
except Exception as error:
    print(error)
"""


def test_a_limit_of_the_process_is_named():
    limit = 1 << 36
    allowed = resource.getrlimit(resource.RLIMIT_AS)[1]
    assert allowed == resource.RLIM_INFINITY or allowed >= limit
    program = LIMITED.replace("LIMIT)", f"{limit})").replace("(LIMIT,", f"({limit},")
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "4,398,046,511,104 bytes more were needed" in told
    assert "this process may take 68,719,476,736 bytes of addresses (`ulimit -v`)" in told
