"""The small worlds and the simulated users of other folders, for the tests that put everything together."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "tune"), str(HERE.parents[1] / "bench")]
