"""Where a teacher's opinion comes from: computed beside the student, or its likeliest tokens kept on disk once.

Legend: B rows, T positions, N target positions, V vocabulary, K tokens kept.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chatwright.foundation import storage
from chatwright.foundation.console import ProgressLine
from chatwright.foundation.errors import RefusedError
from chatwright.foundation.stopping import StopFlag
from chatwright.model.directory import LoadedModel
from chatwright.model.network import Network
from chatwright.tokens.tokenizer import Tokenizer
from chatwright.train.batches import IGNORED
from chatwright.tune.chats import Sample
from chatwright.tune.distill.losses import TopShares, top_shares
from chatwright.tune.tasks import one_a_row

_FORMAT = "chatwright.teacher"
_FACTS = "teacher.json"


class SampleRows(Protocol):
    """Samples by number, the same ones in every pass."""

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, number: int) -> Sample:
        """Inputs and targets."""
        ...


def require_same_tokens(teacher: LoadedModel, student: Tokenizer, *, name: str) -> None:
    """Both must read and write the same tokens.

    Their scores are compared token by token; with another vocabulary position i of one says nothing of the other.

    Raises:
        RefusedError: the vocabularies differ; says how, and what can be done.
    """
    if teacher.tokenizer.digest == student.digest:
        return
    sizes = f"{teacher.tokenizer.size} and {student.size} tokens"
    raise RefusedError(
        f"teacher `{name}` and student have different tokenizers ({sizes}): their scores cannot be compared",
        cause="distillation compares probabilities of the same tokens at the same places",
        hint='give the student the teacher\'s tokenizer, or set `distill.by = "text"`: then the teacher writes, and '
        "the student learns its texts in its own tokens",
    )


class KeptShares:
    """A teacher's likeliest tokens at every target of every sample, in two memory-mapped files.

    A row of a file is a target; `offsets[i]` is the first one of sample i.
    """

    def __init__(self, directory: Path, *, facts: dict[str, object]):
        """Open what `keep_shares` left.

        Raises:
            RefusedError: it is damaged, or was made by another teacher or of other samples.
        """
        storage.verify(directory)
        found = storage.read_json(directory / _FACTS)
        if not isinstance(found, dict) or any(found.get(key) != value for key, value in facts.items()):
            raise RefusedError(
                f"the teacher's scores in `{directory}` belong to another teacher or to other samples",
                hint=f"delete `{directory}` to have them computed again",
            )
        self._offsets: NDArray[np.int64] = np.load(directory / "offsets.npy", allow_pickle=False)
        self._ids: NDArray[np.uint32] = np.load(directory / "ids.npy", mmap_mode="r", allow_pickle=False)
        self._logprobs: NDArray[np.float32] = np.load(directory / "logprobs.npy", mmap_mode="r", allow_pickle=False)

    def of(self, number: int) -> TopShares:
        """Of one sample, in the order of its targets."""
        part = slice(int(self._offsets[number]), int(self._offsets[number + 1]))
        ids = torch.from_numpy(np.asarray(self._ids[part], dtype=np.int64))
        return TopShares(ids, torch.from_numpy(np.array(self._logprobs[part])))

    @property
    def kept(self) -> int:
        """Tokens of each target."""
        return int(self._ids.shape[1])


def keep_shares(
    directory: Path,
    teacher: Network,
    samples: SampleRows,
    *,
    kept: int,
    temperature: float,
    facts: dict[str, object],
    rows: int,
    stop: StopFlag,
) -> KeptShares:
    """Compute and publish the teacher's shares of all samples, once; if they are there already they are opened.

    Args:
        directory: where they stay.
        teacher: in evaluation, on its device.
        samples: what the student will learn.
        kept: tokens of each target.
        temperature: that the student will learn with.
        facts: digests of teacher and samples, and the numbers above; another call with others is refused.
        rows: samples at once.
        stop: asked between batches.
    """
    if not directory.is_dir():
        offsets = _offsets(samples)
        storage.require_free_space(directory.parent, int(offsets[-1]) * kept * 8 + (1 << 20))
        with storage.publish(directory) as scratch:
            shape = (int(offsets[-1]), kept)
            ids = np.lib.format.open_memmap(scratch / "ids.npy", mode="w+", dtype=np.uint32, shape=shape)
            logprobs = np.lib.format.open_memmap(scratch / "logprobs.npy", mode="w+", dtype=np.float32, shape=shape)
            for start, part in _parts(samples, rows, stop):
                found = _shares(teacher, part, kept=kept, temperature=temperature)
                place = slice(int(offsets[start]), int(offsets[start + len(part)]))
                ids[place], logprobs[place] = found.ids_NK.numpy(), found.logprobs_NK.numpy()
            ids.flush()
            logprobs.flush()
            np.save(scratch / "offsets.npy", offsets, allow_pickle=False)
            storage.write_json(scratch / _FACTS, {"format": _FORMAT, **facts})
    return KeptShares(directory, facts=facts)


def _parts(samples: SampleRows, rows: int, stop: StopFlag) -> Iterator[tuple[int, list[Sample]]]:
    """So many samples at once with the first one's number; what was done of them is shown."""
    progress = ProgressLine("teacher", len(samples))
    for start in range(0, len(samples), rows):
        stop.check("nothing of the teacher's scores")
        part = [samples[number] for number in range(start, min(len(samples), start + rows))]
        yield start, part
        progress.update(start + len(part))
    progress.close()


def _offsets(samples: SampleRows) -> NDArray[np.int64]:
    """Where the targets of each sample begin, and where the last end."""
    counts = [sum(target != IGNORED for target in samples[number].targets) for number in range(len(samples))]
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


@torch.no_grad()
def _shares(teacher: Network, samples: Sequence[Sample], *, kept: int, temperature: float) -> TopShares:
    """Of all targets of some samples, in their order."""
    batch = one_a_row(samples).to(teacher.lm_head.weight.device)
    hidden_ND = teacher.hidden(batch.ids_BT)[batch.targets_BT != IGNORED]
    parts = []
    rows = max(1, (16 << 20) // teacher.config.vocabulary_size)
    for start in range(0, len(hidden_ND), rows):
        scores_NV: Tensor = teacher.lm_head(hidden_ND[start : start + rows])
        parts.append(top_shares(scores_NV, kept=kept, temperature=temperature))
    return TopShares(torch.cat([part.ids_NK for part in parts]).cpu(), torch.cat([p.logprobs_NK for p in parts]).cpu())
