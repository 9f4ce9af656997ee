"""The golden steps with compiled blocks, in a process without checked types, which no compiler sees through.

compiled_training.py DIRECTORY [recompute] [bfloat16]     prints the losses as JSON
"""

import json
import sys
from pathlib import Path

import torch
from test_golden import losses, new_golden_network


def main() -> None:
    torch.set_num_threads(1)
    network = new_golden_network()
    recompute, precision = "recompute" in sys.argv, "bfloat16" if "bfloat16" in sys.argv else "float32"
    found = losses(Path(sys.argv[1]), network=network, compile=True, recompute=recompute, precision=precision)
    assert all(block._compiled_call_impl is not None for block in network.model.layers)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
