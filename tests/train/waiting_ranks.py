"""Two ranks of which the first is late, by torchrun's environment.

waiting_ranks.py ALLOWED_S LATE_S     the second one waits at most so long
"""

import sys
import time

import torch

from chatwright.foundation.errors import ChatwrightError
from chatwright.train.ranks import Ranks


def main() -> None:
    ranks = Ranks()
    ranks.join(torch.device("cpu"), timeout_s=int(sys.argv[1]))
    if ranks.is_first:
        time.sleep(float(sys.argv[2]))
    try:
        ranks.wait()
    except ChatwrightError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
