"""Predicted against measured memory of a training step on the CPU, for ten shapes, batches and precisions.

Each is trained for a few steps by the training loop itself, in a process of its own; what was measured is that
process's largest resident size. Prints JSON: predicted and measured bytes and their ratio. None depends on time.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from chatwright.recipe.plan import cost
from chatwright.recipe.plan.machine import resident_bytes, time_step
from chatwright.recipe.plan.shapes import shape_of

# width, layers, vocabulary, context, rows at once, precision
CONFIGURATIONS = (
    (64, 2, 4096, 256, 16, "float32"),
    (128, 4, 4096, 256, 16, "bfloat16"),
    (128, 4, 4096, 256, 4, "float32"),
    (192, 6, 4096, 512, 8, "float32"),
    (192, 6, 8192, 256, 16, "bfloat16"),
    (256, 8, 8192, 512, 8, "bfloat16"),
    (256, 4, 16_384, 256, 16, "float32"),
    (384, 6, 8192, 512, 4, "float32"),
    (512, 8, 16_384, 256, 4, "float32"),
    (768, 6, 32_768, 256, 2, "bfloat16"),
)
_STEPS = 3


def main() -> None:
    """Measure all, or one where `--one` says so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", type=int, help="a configuration's number; used by the benchmark itself")
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(CONFIGURATIONS[arguments.one])))
        return
    found = []
    for number in range(len(CONFIGURATIONS)):
        found.append(called(number))
        print(f"{number}: predicted {found[-1]['ratio']} of what was measured", file=sys.stderr)
    ratios = [one["ratio"] for one in found]
    within = sum(0.9 <= ratio <= 1.1 for ratio in ratios)
    print(json.dumps({"within_ten_per_cent": within, "of": len(found), "configurations": found}, indent=2))


def called(number: int) -> dict[str, Any]:
    """One configuration in a fresh process, whose peak memory is then its own."""
    command = [sys.executable, __file__, "--one", str(number)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure(configuration: tuple[int, int, int, int, int, str]) -> dict[str, Any]:
    """Predict, train for some steps, and read the process's largest resident size."""
    from chatwright.foundation.devices import place

    width, layers, vocabulary, context, rows, precision = configuration
    shape = shape_of(width, layers, vocabulary_size=vocabulary, context_length=context)
    before = resident_bytes()
    predicted = cost.memory(shape, micro_rows=rows, precision=precision, process=before + cost.FIRST_USE_BYTES)
    placement = place(device="cpu", precision=precision)
    _forget_peak()
    time_step(shape, rows=rows, micro_rows=rows, placement=placement, steps=_STEPS)
    measured = _peak_bytes()
    return {
        "width": width,
        "layers": layers,
        "vocabulary": vocabulary,
        "context": context,
        "rows": rows,
        "precision": precision,
        "parameters": shape.num_parameters(),
        "predicted_bytes": predicted.total,
        "measured_bytes": measured,
        "ratio": round(predicted.total / measured, 4),
        "parts": predicted._asdict(),
    }


def _forget_peak() -> None:
    """The prediction itself must not count: the kernel's mark begins anew (Linux, proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
