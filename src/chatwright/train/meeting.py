"""Where the processes of one start meet, though the store may still hold what those of an earlier start wrote.

torchrun keeps one store for all starts of a training, and PyTorch (2.4 to 2.13) puts no number of the attempt before
its keys: a quick rank would read a dead one's address and wait there. The number of restarts is of no help, since on
several nodes each counts its own. So the first rank of every start gives itself a new name, the others answer under it
with names of their own, and all go on once it has listed theirs: who has read an old name finds itself on no list and
looks again.
"""

import time
import uuid
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

_FIRST_LOOK_S, _LONGEST_PAUSE_S = 0.02, 1.0


def meet(rank: int, size: int, timeout: timedelta) -> Store:
    """A store that the `size` processes of this start share with no other.

    Raises:
        RuntimeError: not all came within the timeout.
    """
    store, rank, size = next(rendezvous("env://", rank, size, timeout=timeout))
    name = _gather(store, size) if rank == 0 else _follow(store, rank, timeout)
    return PrefixStore(f"chatwright/{name}", store)


def _gather(store: Store, size: int) -> str:
    name = uuid.uuid4().hex
    store.set("chatwright/first", name)
    members = [store.get(f"chatwright/{name}/{rank}").decode() for rank in range(1, size)]
    store.set(f"chatwright/{name}/members", ",".join(members))
    return name


def _follow(store: Store, rank: int, timeout: timedelta) -> str:
    own, name = uuid.uuid4().hex, ""
    until, pause_s = time.monotonic() + timeout.total_seconds(), _FIRST_LOOK_S
    while time.monotonic() < until:
        newest = store.get("chatwright/first").decode()
        if newest != name:
            name, pause_s = newest, _FIRST_LOOK_S
            store.set(f"chatwright/{name}/{rank}", own)
        members = f"chatwright/{name}/members"
        if store.check([members]) and own in store.get(members).decode().split(","):
            return name
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    raise RuntimeError(f"the first rank did not gather all within {timeout.total_seconds():.0f} s")
