"""A training that was interrupted is not given up in silence because something changed meanwhile.

Another key is another stage to the cache, and begins anew. Of a pretraining weeks may be at stake: where only what it
learns from is another, it is refused with the difference; where settings of memory alone are others, it goes on from
what is there. Otherwise a training begins anew, and the person is told what is another and where the interrupted work
lies.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.foundation import storage
from chatwright.foundation.console import say
from chatwright.foundation.errors import RefusedError
from chatwright.tokens.shards import TokenData
from chatwright.train.checkpoints import Checkpoints
from chatwright.train.resume import differences_told

_NOTE = ".{}.json"  # beside the stage's work
# Memory's affair, not learning's: any checkpoint goes on with others, and the result is the same up to rounding.
_OF_MEMORY = ("pretrain.micro_rows", "pretrain.parallel")


class MadeFrom(NamedTuple):
    """What a stage begins with."""

    settings: dict[str, Any]  # its configuration and seed, as far as its result depends on them
    inputs: dict[str, str]  # content digests by name, also of what it reads beside its inputs


def begin(work: Path, made_from: MadeFrom, *, tokens: Path | None) -> None:
    """Let a stage begin at a scratch directory that is not there, or go on in it with what another one holds.

    Args:
        work: the scratch directory in question; its name begins with the stage's.
        made_from: what it begins with.
        tokens: of a pretraining, the token shards as they are now; other trainings are short, and begin anew when told.

    Raises:
        RefusedError: a pretraining with its settings stands there half done, from other data; what changed, by name.
    """
    if tokens is not None:
        _take_over(work, made_from)
    if not work.exists():
        if tokens is not None:
            _refuse_changed_data(work, made_from, tokens=tokens)
        _tell_changes(work, made_from)
    _note(work, made_from)


def _take_over(work: Path, made_from: MadeFrom) -> None:
    """Where what was interrupted differs in memory's affairs alone, that is what goes on, under this name."""
    stage = work.name.rpartition("-")[0]
    wanted = (made_from.inputs, _of_learning(made_from.settings))
    notes = {other: _read(other) for other in work.parent.glob(f"{stage}-*")}
    alike = [one for one, kept in notes.items() if (kept.get("inputs"), _of_learning(kept.get("settings"))) == wanted]
    if not alike:
        return
    other = max(alike, key=lambda one: Checkpoints(one / "checkpoints").newest_step() or 0)
    _note(work, made_from)
    other.rename(work)
    forget(other)
    changed = differences_told(_flat(notes[other]["settings"]), _flat(made_from.settings))
    say(f"  goes on from what was interrupted where {changed}: the result may not be the same to the bit")


def _of_learning(settings: Any) -> dict[str, Any] | None:
    """The settings without those of memory; older notes hold a digest alone."""
    if not isinstance(settings, dict):
        return None
    return {name: value for name, value in _flat(settings).items() if name not in _OF_MEMORY}


def _note(work: Path, made_from: MadeFrom) -> None:
    """Write down what a stage that begins at this scratch directory is made from."""
    with storage.publish_file(_note_of(work)) as scratch:
        storage.write_json(scratch, made_from._asdict())


def forget(work: Path) -> None:
    """The stage is done, or its work is thrown away."""
    _note_of(work).unlink(missing_ok=True)


def _refuse_changed_data(work: Path, made_from: MadeFrom, *, tokens: Path) -> None:
    """Let a stage begin at `work` only if none with its settings stands there half done, from other data."""
    stage = work.name.rpartition("-")[0]
    for other in sorted(work.parent.glob(f"{stage}-*")):
        before = _read(other)
        is_alike = _of_learning(before.get("settings")) == _of_learning(made_from.settings)
        if other == work or not is_alike or before.get("inputs") == made_from.inputs:
            continue
        newest = Checkpoints(other / "checkpoints").newest() if (other / "checkpoints").is_dir() else None
        if newest is not None:
            now = TokenData(tokens).split("train").identity
            changed = _other_inputs(before, made_from)
            others = f"what it begins with has changed since: {', '.join(f'`{name}`' for name in changed)}"
            told = "its documents have changed since" if "tokens" in changed else others
            raise RefusedError(
                f"`{stage}` was interrupted at step {newest.state['step']}, and {told}",
                cause=differences_told(_of_data(newest.state, now), now),
                kept=f"its checkpoints in `{other}`",
                hint=f"put back what was there to go on, or delete `{other}` to begin anew with what is there now",
            )


def _tell_changes(work: Path, made_from: MadeFrom) -> None:
    """Say what of a stage that begins anew stands there half done, and which of its settings or inputs were others."""
    stage = work.name.rpartition("-")[0]
    for other in sorted(work.parent.glob(f"{stage}-*")):
        step = Checkpoints(other / "checkpoints").newest_step() if (other / "checkpoints").is_dir() else None
        before = _read(other)
        changes = [] if other == work or step is None else list(_changes(before, made_from))
        if changes:
            say(f"  `{stage}` was interrupted at step {step} with {'; and with '.join(changes)}")
            say(
                f"  it begins anew; the earlier checkpoints lie in `{other}` until it is done: to go on from them, stop"
            )
            say("  this one and put back what was there")


def _changes(before: dict[str, Any], made_from: MadeFrom) -> Iterator[str]:
    settings = before.get("settings")
    if settings != made_from.settings:
        known = settings if isinstance(settings, dict) else {}  # older notes hold a digest alone, or are not there
        told = differences_told(_flat(known), _flat(made_from.settings)) if known else None
        yield f"other settings: {told or 'which ones was not kept'}"
    changed = _other_inputs(before, made_from)
    if changed:
        yield f"another {' and '.join(f'`{name}`' for name in changed)}"


def _other_inputs(before: dict[str, Any], made_from: MadeFrom) -> list[str]:
    """Names of inputs whose contents were others."""
    known = before.get("inputs")
    known, now = known if isinstance(known, dict) else {}, made_from.inputs
    return [name for name in {**known, **now} if known and known.get(name) != now.get(name)]


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
