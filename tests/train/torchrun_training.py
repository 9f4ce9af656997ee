"""A training that torchrun starts on each rank, slow enough to be struck in its midst.

torchrun_training.py DIRECTORY STEPS SECONDS_A_STEP     leaves its process id beside the directory
"""

import os
import sys
import time
from pathlib import Path

import torch
from tiny_training import DrawnSource, digest, new_network, new_trainer

from chatwright.foundation.errors import ChatwrightError
from chatwright.foundation.stopping import stop_requested


class Slow(DrawnSource):
    """The same rows, each step after a while."""

    pace_s = 0.0

    def step(self, number):
        time.sleep(self.pace_s)
        return super().step(number)


def main() -> None:
    torch.set_num_threads(1)
    directory, steps, Slow.pace_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    rank = os.environ.get("RANK", "0")
    directory.with_name(f"process.{rank}.{os.getpid()}").touch()
    network = new_network()
    try:
        with stop_requested() as stop:
            exact = {"reduction": "exact", "collective_timeout_s": 5}
            new_trainer(directory, network=network, steps=steps, source=Slow(rows=8), **exact).run(stop)
    except ChatwrightError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    if rank == "0":
        directory.with_name("digest").write_text(digest(network))


if __name__ == "__main__":
    main()
