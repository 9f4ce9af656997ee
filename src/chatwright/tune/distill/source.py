"""What a student learns, as micro-batches: the same samples in every pass, with or without the teacher's kept shares.

Not for the teacher (teacher.py). Legend: B rows, T positions, N targets, K tokens kept.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from chatwright.foundation.errors import DataError
from chatwright.foundation.streams import Permutation, seed_for
from chatwright.tokens.shards import TokenSplit
from chatwright.train.batches import MicroBatch
from chatwright.tune.chats import Sample
from chatwright.tune.distill.teacher import KeptShares, SampleRows
from chatwright.tune.preferences.source import as_sample
from chatwright.tune.reference import Learner
from chatwright.tune.rollouts import WritingRules, write_answers
from chatwright.tune.tasks import one_a_row, task_batch


class Windows:
    """A split's windows as samples. They stay where they are in each pass, so that a teacher need read them once."""

    def __init__(self, split: TokenSplit, *, length: int):
        self._split = split
        self._length = length
        if len(self) < 1:
            raise DataError(
                f"the corpus has {len(split)} training tokens, one window of context needs {length + 1}",
                hint="add documents, or shorten the student's context",
            )

    def __len__(self) -> int:
        """Whole windows; the rest of the last one is left."""
        return (len(self._split) - 1) // self._length

    def __getitem__(self, number: int) -> Sample:
        """Every token but the first is a target."""
        ids = self._split.slice(number * self._length, self._length + 1).tolist()
        return Sample(ids[:-1], ids[1:])


class Plan(NamedTuple):
    """How samples are spread over steps."""

    rows: int  # a step
    micro_rows: int  # at once
    seed: int
    fingerprint: str

    def chosen(self, step: int, size: int) -> list[int]:
        """The samples of a step, of an order that is drawn anew for each pass."""
        places = (divmod(row, size) for row in range(step * self.rows, (step + 1) * self.rows))
        return [Permutation(size, seed_for(self.seed, "distill", epoch))[position] for epoch, position in places]


class LessonSource:
    """Samples, and beside them what was kept of the teacher, if it was."""

    def __init__(self, samples: SampleRows, plan: Plan, *, shares: KeptShares | None = None):
        self._samples = samples
        self._plan = plan
        self._shares = shares
        self.fingerprint = plan.fingerprint

    def step(self, number: int) -> list[MicroBatch]:
        """Those of like length together."""
        chosen = self._plan.chosen(number, len(self._samples))
        rows = sorted(((index, self._samples[index]) for index in chosen), key=lambda row: len(row[1].inputs))
        starts = range(0, len(rows), self._plan.micro_rows)
        return [self._batch(rows[start : start + self._plan.micro_rows]) for start in starts]

    def _batch(self, rows: Sequence[tuple[int, Sample]]) -> MicroBatch:
        plain = one_a_row([sample for _, sample in rows])
        if self._shares is None:
            return plain
        shares = [self._shares.of(index) for index, _ in rows]
        extras = {
            "top_ids_NK": torch.cat([share.ids_NK for share in shares]),
            "top_logprobs_NK": torch.cat([share.logprobs_NK for share in shares]),
        }
        return task_batch(plain.ids_BT, plain.targets_BT, count=plain.num_targets, extras=extras)


class OwnSource:
    """The student's own answers to questions, written anew each step (Agarwal et al. 2023, GKD, algorithm 1)."""

    def __init__(self, prompts: Sequence[Sequence[int]], plan: Plan, *, learner: Learner, writing: WritingRules):
        self._prompts = prompts
        self._plan = plan
        self._learner = learner
        self._writing = writing
        self.fingerprint = plan.fingerprint

    def step(self, number: int) -> list[MicroBatch]:
        """Written by counter: the same weights write the same answers."""
        prompts = [self._prompts[index] for index in self._plan.chosen(number, len(self._prompts))]
        with self._learner.writer() as student:
            written = write_answers(student, prompts, self._writing, seed=seed_for(self._plan.seed, "own", number))
        samples = sorted((as_sample(answer) for answer in written), key=lambda sample: len(sample.inputs))
        starts = range(0, len(samples), self._plan.micro_rows)
        return [one_a_row(samples[start : start + self._plan.micro_rows]) for start in starts]
