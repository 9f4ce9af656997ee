"""The same small training as written and compiled, in a process without checked types, which no compiler sees through.

compiled_training.py DIRECTORY     prints the largest and the mean difference of the weights as JSON
"""

import json
import sys
from pathlib import Path

import torch
from tiny_training import new_network, new_trainer


def main() -> None:
    torch.set_num_threads(1)
    networks = []
    for setting in (False, True):
        network = new_network(deep=True)
        new_trainer(Path(sys.argv[1]) / str(setting), network=network, compile=setting).run()
        networks.append(network)
    assert all(block._compiled_call_impl is not None for block in networks[1].model.layers)
    pairs = zip(*(network.parameters() for network in networks), strict=True)
    drift = torch.cat([(one - other).detach().abs().flatten() for one, other in pairs])
    sys.stdout.write(json.dumps({"largest": float(drift.max()), "mean": float(drift.mean())}))


if __name__ == "__main__":
    main()
