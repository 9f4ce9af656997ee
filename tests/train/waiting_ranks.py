"""Two ranks of which the first is late, by torchrun's environment.

waiting_ranks.py ALLOWED_S LATE_S [BYTES]     the second one waits at most so long, or as long as these bytes take
"""

import sys
import time

import torch

from chatwright.foundation.errors import ChatwrightError
from chatwright.train.ranks import Ranks


def main() -> None:
    ranks = Ranks()
    ranks.join(torch.device("cpu"), timeout_s=int(sys.argv[1]))
    num_bytes = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    try:
        with ranks.patient(num_bytes):
            if ranks.is_first:
                time.sleep(float(sys.argv[2]))
            ranks.wait()
    except ChatwrightError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
