"""Adapters as files: merged into their base and taken out again, several on one base, and PEFT's format both ways."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.model.adapter import Adapter
from chatwright.model.adapter_files import load_adapter, read_record
from chatwright.model.attachment import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Attachment
from chatwright.model.bottleneck import Bottlenecks
from chatwright.model.directory import LoadedModel, load_model, save_model
from chatwright.model.exchange import Exchanged, require_absent, size_of
from chatwright.model.network import Network
from chatwright.model.peft_format import PEFT_CONFIG, load_peft, save_peft
from chatwright.model.tensors import TensorFile


def open_adapter(directory: Path, network: Network, *, base_digest: str) -> Attachment:
    """An adapter of ours or PEFT's on this base.

    Raises:
        RefusedError: it is neither, is damaged, or belongs to another base.
    """
    if (directory / PEFT_CONFIG).is_file():
        return load_peft(directory, network, base_digest=base_digest)
    if not (directory / ADAPTER_CONFIG).is_file():
        raise RefusedError(f"`{directory}` holds no adapter: it has neither `{ADAPTER_CONFIG}` nor `{PEFT_CONFIG}`")
    return load_adapter(directory, network, base_digest=base_digest)


def merge_adapters(base: Path, adapters: Sequence[Path], target: Path, *, weights: Sequence[float] = ()) -> Exchanged:
    """Write the model that a base and its adapters are together; several add up.

    Args:
        base: the model directory that all of them were trained on.
        adapters: ours or PEFT's.
        target: the new model directory.
        weights: one for each adapter; all one if none is given.

    Raises:
        RefusedError: an adapter is damaged or of another base.
        UsageError: the target is there already, counts that differ, or DoRA among several.
    """
    require_absent(target)
    shares = list(weights) or [1.0] * len(adapters)
    if len(shares) != len(adapters):
        raise UsageError(f"{len(adapters)} adapters and {len(shares)} weights", hint="give one `--weight` for each")
    loaded = load_model(base)
    opened = [open_adapter(path, loaded.network, base_digest=loaded.digest) for path in adapters]
    if len(opened) > 1 and any(isinstance(one, Adapter) and one.config.magnitudes for one in opened):
        raise UsageError("DoRA rescales what is below it, so its sum with others depends on their order")
    # Bottlenecks come last: they widen the MLP that the others were made for.
    for one, share in sorted(zip(opened, shares, strict=True), key=lambda pair: isinstance(pair[0], Bottlenecks)):
        one.merge(loaded.network, weight=share)
    told = [
        {"name": path.name, "digest": adapter_digest(path), "weight": share, "kind": one.kind}
        for path, one, share in zip(adapters, opened, shares, strict=True)
    ]
    lineage = {"stage": "merge", "base": loaded.digest, "base_lineage": loaded.lineage, "adapters": told, "inputs": {}}
    digest = save_model(target, loaded.network, loaded.tokenizer, lineage=lineage)
    return Exchanged(target, {"digest": digest, "adapters": told, "bytes": size_of(target)})


def unmerge_adapter(model: Path, adapter: Path, target: Path) -> Exchanged:
    """Write a merged model without one of the adapters that are in it: its base again, to rounding.

    It is taken out with the weight that it was merged with. Bottlenecks come out in the order opposite to the merge.

    Raises:
        RefusedError: the adapter is not in the model, is not of the base that the model's lineage names, or is a
            bottleneck below another.
        UsageError: the target is there already, or DoRA.
    """
    require_absent(target)
    loaded = load_model(model)
    digest = loaded.lineage.get("base")
    if not isinstance(digest, str):
        raise RefusedError(f"`{model}` does not say which base it was made of, so nothing can be taken out of it")
    opened = _shape_of_base(loaded, adapter)
    left, weight = _merged(loaded.lineage, model), 1.0
    if left is None:  # a fine-tune's own model: its adapter, whole, and nothing else
        left = []
    else:
        place = _place(left, adapter, model)
        if isinstance(opened, Bottlenecks):
            _require_last(left[place + 1 :], adapter)
        weight = left.pop(place).weight
    opened.unmerge(loaded.network, weight=weight)
    # An empty list too: it says that nothing more can be taken out.
    told = [entry._asdict() for entry in left]
    lineage = {"stage": "unmerge", "base": digest, "merged": loaded.digest, "adapters": told, "inputs": {}}
    made = save_model(target, loaded.network, loaded.tokenizer, lineage=lineage)
    return Exchanged(target, {"digest": made, "bytes": size_of(target)})


class _Merged(NamedTuple):
    """What a merged model's lineage tells of one adapter in it."""

    name: str
    digest: str
    weight: float
    kind: str  # "" in models that were merged before it was told


def _merged(lineage: dict[str, Any], model: Path) -> list[_Merged] | None:
    """The adapters in a merged model, in the order of the merge; None where its lineage tells of none."""
    told = lineage.get("adapters")
    if told is None:
        return None
    try:
        return [
            _Merged(str(entry["name"]), str(entry["digest"]), float(entry["weight"]), str(entry.get("kind", "")))
            for entry in told
        ]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise RefusedError(f"what `{model}` says of the adapters merged into it makes no sense") from error


def _place(merged: Sequence[_Merged], adapter: Path, model: Path) -> int:
    """Where an adapter stands among the merged ones; of one that was merged twice, the last."""
    digest = adapter_digest(adapter)
    places = [place for place, entry in enumerate(merged) if entry.digest == digest]
    if not places:
        raise RefusedError(f"`{adapter}` is not among the adapters merged into `{model}`")
    return places[-1]


def _require_last(later: Sequence[_Merged], adapter: Path) -> None:
    """A bottleneck is the last neurons of each MLP, unless another was merged after it."""
    above = [entry.name for entry in later if entry.kind in (Bottlenecks.kind, "")]
    if above:
        raise RefusedError(
            f"`{adapter}` cannot be taken out yet: `{above[-1]}` was merged after it",
            hint=f"take `{above[-1]}` out first, or merge the base anew with the adapters to keep",
        )


def _shape_of_base(loaded: LoadedModel, adapter: Path) -> Attachment:
    """The adapter opened on a merged model, whose MLP a bottleneck has made wider; only shapes are asked of it."""
    return open_adapter(adapter, loaded.network, base_digest=str(loaded.lineage["base"]))


def to_peft(base: Path, adapter: Path, target: Path) -> Exchanged:
    """Write an adapter of ours in PEFT's format.

    Raises:
        UsageError: PEFT cannot express it, or the target is there already.
    """
    require_absent(target)
    loaded = load_model(base)
    opened = load_adapter(adapter, loaded.network, base_digest=loaded.digest)
    if not isinstance(opened, Adapter):
        raise UsageError(
            f"PEFT has no adapters of the kind `{opened.kind}`",
            hint="merge it with `chatwright adapter merge`, and export the model",
        )
    save_peft(target, opened, loaded.network, base=str(base), base_digest=loaded.digest)
    return Exchanged(target, {"trained": opened.num_parameters(), "bytes": size_of(target)})


def from_peft(base: Path, adapter: Path, target: Path) -> Exchanged:
    """Write an adapter of PEFT's as one of ours, bound to this base from now on.

    Raises:
        RefusedError: it does not fit the base, or asks for what is not computed here.
        UsageError: the target is there already.
    """
    require_absent(target)
    loaded = load_model(base)
    opened = load_peft(adapter, loaded.network, base_digest=loaded.digest)
    opened.save(target, base_digest=loaded.digest)
    return Exchanged(target, {"trained": opened.num_parameters(), "bytes": size_of(target)})


def describe(adapter: Path) -> dict[str, Any]:
    """What a saved adapter of ours is: its kind and size, and the digest of its base."""
    facts = read_record(adapter)
    with TensorFile(adapter / ADAPTER_WEIGHTS) as file:
        trained = sum(_count(entry.shape) for entry in file.entries.values())
    kind = facts.get("kind", Adapter.kind)
    settings = facts.get("lora") or facts.get("bottleneck")
    return {"kind": kind, "settings": settings, "trained": trained, "bytes": size_of(adapter), "base": facts["base"]}


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def adapter_digest(adapter: Path) -> str:
    """Digest of an adapter's files, by which a merged model's lineage names it."""
    return storage.digest_json({path.name: storage.digest_file(path) for path in sorted(adapter.iterdir())})
