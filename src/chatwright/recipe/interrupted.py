"""A pretraining that was interrupted is not given up in silence because its documents changed meanwhile.

Another key is another stage to the cache, and begins anew; where only the data is another, weeks may be at stake, and
it is refused with the difference. A recipe that was changed on purpose begins anew, and the person is told which
settings are others and where the interrupted work lies.
"""

from pathlib import Path
from typing import Any, NamedTuple

from chatwright.foundation import storage
from chatwright.foundation.console import say
from chatwright.foundation.errors import RefusedError
from chatwright.tokens.shards import TokenData
from chatwright.train.checkpoints import Checkpoints
from chatwright.train.resume import differences_told

_NOTE = ".{}.json"  # beside the stage's work


class MadeFrom(NamedTuple):
    """What a stage begins with."""

    settings: dict[str, Any]  # its configuration and seed, as far as its result depends on them
    inputs: dict[str, str]  # content digests by name


def note(work: Path, made_from: MadeFrom) -> None:
    """Write down what a stage that begins at this scratch directory is made from."""
    with storage.publish_file(_note_of(work)) as scratch:
        storage.write_json(scratch, made_from._asdict())


def forget(work: Path) -> None:
    """The stage is done, or its work is thrown away."""
    _note_of(work).unlink(missing_ok=True)


def refuse_changed_data(work: Path, made_from: MadeFrom, *, tokens: Path) -> None:
    """Let a stage begin at `work` only if none with its settings stands there half done, from other data.

    Args:
        work: the scratch directory in question; its name begins with the stage's.
        made_from: what it would begin with.
        tokens: the token shards as they are now.

    Raises:
        RefusedError: one stands there; what changed, by name.
    """
    stage = work.name.rpartition("-")[0]
    for other in sorted(work.parent.glob(f"{stage}-*")):
        before = _read(other)
        if other == work or before.get("settings") != made_from.settings or before.get("inputs") == made_from.inputs:
            continue
        newest = Checkpoints(other / "checkpoints").newest() if (other / "checkpoints").is_dir() else None
        if newest is not None:
            now = TokenData(tokens).split("train").identity
            raise RefusedError(
                f"`{stage}` was interrupted at step {newest.state['step']}, and its documents have changed since",
                cause=differences_told(_of_data(newest.state, now), now),
                kept=f"its checkpoints in `{other}`",
                hint=f"put the documents back to go on, or delete `{other}` to begin anew with what is there now",
            )


def tell_changed_settings(work: Path, made_from: MadeFrom) -> None:
    """Say what of a stage that begins anew stands there half done with other settings, and what they were.

    Args:
        work: the scratch directory where it begins; its name begins with the stage's.
        made_from: what it begins with.
    """
    stage = work.name.rpartition("-")[0]
    for other in sorted(work.parent.glob(f"{stage}-*")):
        before = _read(other).get("settings")
        step = Checkpoints(other / "checkpoints").newest_step() if (other / "checkpoints").is_dir() else None
        if other == work or step is None or before == made_from.settings:
            continue
        known = before if isinstance(before, dict) else {}  # older notes hold a digest alone
        changed = differences_told(_flat(known), _flat(made_from.settings)) if known else None
        say(f"  `{stage}` was interrupted at step {step} with other settings: {changed or 'which ones was not kept'}")
        say(f"  it begins anew; the earlier checkpoints lie in `{other}` until it is done: to go on from them, stop")
        say("  this one and put the settings back")


def _flat(settings: dict[str, Any], place: str = "") -> dict[str, Any]:
    """Each setting by its whole name."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        whole = f"{place}.{name}" if place else name
        found |= _flat(value, whole) if isinstance(value, dict) else {whole: value}
    return found


def _of_data(state: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its data, without the settings of its order."""
    known = state.get("identity") or {}
    return {name: value for name, value in known.items() if name in now or name.startswith("shard ")}


def _note_of(work: Path) -> Path:
    return work.with_name(_NOTE.format(work.name))


def _read(work: Path) -> dict[str, Any]:
    path = _note_of(work)
    value = storage.read_json(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {}
