"""A model that learns from its own answers: each step it writes several to a prompt, and the better ones gain.

The step's answers depend on the step's number and the weights alone, so a resumed run writes the same ones.
Legend: B answers, T positions, G prompts, R answers to one prompt.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from chatwright.foundation.streams import Permutation, seed_for
from chatwright.train.batches import MicroBatch
from chatwright.tune.preferences.losses import group_advantages
from chatwright.tune.preferences.scoring import token_logprobs
from chatwright.tune.preferences.source import as_sample
from chatwright.tune.reference import Learner
from chatwright.tune.rollouts import Answered, WritingRules, write_answers
from chatwright.tune.tasks import one_a_row, task_batch

Judge = Callable[[Sequence[int], Sequence[Answered]], list[float]]  # tasks by number, and an answer to each: rewards


class GroupRules(NamedTuple):
    """How many answers are written, and how they are compared."""

    prompts: int  # a step
    answers: int  # to each prompt
    micro_rows: int  # answers at once, in learning
    by_deviation: bool


class RolloutSource:
    """Each step's own answers with their advantages. Counts answers.

    Args:
        prompts: token ids of each task.
        judge: what answers are worth.
        learner: writes, and gives the reference.
        writing: how answers are drawn.
        group: how many, and how they are compared.
        seed: of order and answers.
        fingerprint: of tasks, rewards and settings.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        judge: Judge,
        learner: Learner,
        writing: WritingRules,
        group: GroupRules,
        seed: int,
        fingerprint: str,
    ):
        self._prompts = prompts
        self._judge = judge
        self._learner = learner
        self._writing = writing
        self._group = group
        self._seed = seed
        self.fingerprint = fingerprint

    def step(self, number: int) -> list[MicroBatch]:
        """Write, judge, compare within each group, score under the reference."""
        first, group = number * self._group.prompts, self._group
        tasks = [self._task(row) for row in range(first, first + group.prompts) for _ in range(group.answers)]
        with self._learner.writer() as network:
            prompts = [self._prompts[task] for task in tasks]
            written = write_answers(network, prompts, self._writing, seed=seed_for(self._seed, "rollout", number))
        rewards_GR = torch.tensor(self._judge(tasks, written)).view(group.prompts, group.answers)
        advantages_B = group_advantages(rewards_GR, by_deviation=group.by_deviation).flatten()
        order = sorted(range(len(written)), key=lambda row: len(written[row].prompt) + len(written[row].answer))
        parts = [order[start : start + group.micro_rows] for start in range(0, len(order), group.micro_rows)]
        with self._learner.reference() as network:
            device = network.lm_head.weight.device
            batches = []
            for part in parts:
                rows = one_a_row([as_sample(written[row]) for row in part])
                moved = rows.to(device)
                reference_BT = token_logprobs(
                    network, moved.ids_BT, moved.targets_BT, temperature=self._writing.temperature
                )
                extras = {"advantages_B": advantages_B[part], "reference_BT": reference_BT.cpu()}
                batches.append(task_batch(rows.ids_BT, rows.targets_BT, count=len(part), extras=extras))
        return list(batches)

    def _task(self, row: int) -> int:
        epoch, position = divmod(row, len(self._prompts))
        return Permutation(len(self._prompts), seed_for(self._seed, "tasks", epoch))[position]
