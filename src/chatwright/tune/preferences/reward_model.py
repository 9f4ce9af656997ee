"""A reward model: a network with one output, trained on pairs, kept as Hugging Face's sequence classifier of one label.

Not for rules that can be checked (rewards.py) or for its calibration (calibration.py).
Legend: B rows, T positions, D width, P pairs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chatwright.foundation import storage
from chatwright.foundation.errors import RefusedError
from chatwright.model.directory import LINEAGE, WEIGHTS, read_config, read_head, write_head
from chatwright.model.families import classifier_of, to_hugging_face
from chatwright.model.foreign import require_own_files
from chatwright.model.network import Network
from chatwright.tokens.tokenizer import Tokenizer, load_tokenizer
from chatwright.train.batches import MicroBatch
from chatwright.tune.preferences.losses import pairwise
from chatwright.tune.rollouts import Answered
from chatwright.tune.tasks import extras_of, task_batch

_FORMAT = "chatwright.reward"
_VERSION = 1


class RewardModel(nn.Module):
    """A network and the score of its state at an answer's last token."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network
        self.score = nn.Linear(network.config.width, 1, bias=False)
        nn.init.zeros_(self.score.weight)  # at first every answer is worth the same

    def rewards(self, ids_BT: Tensor, last_B: Tensor) -> Tensor:
        """(B,) rewards of rows whose last token stands at `last_B`."""
        hidden_BTD = self.network.hidden(ids_BT)
        rows_B = torch.arange(len(last_B), device=last_B.device)
        return self.score(hidden_BTD[rows_B, last_B])[:, 0].float()  # type: ignore[no-any-return]

    def judge(self, answers: Sequence[Answered], *, rows: int) -> list[float]:
        """The reward of each answer."""
        found: list[float] = []
        device = self.score.weight.device
        with torch.no_grad():
            for start in range(0, len(answers), rows):
                part = [[*answer.prompt, *answer.answer] for answer in answers[start : start + rows]]
                last_B = torch.tensor([len(ids) - 1 for ids in part], device=device)
                found += self.rewards(padded(part).to(device), last_B).tolist()
        return found


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows filled up at the right; what fills them is never read."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])


def pair_batch(chosen: Sequence[Answered], rejected: Sequence[Answered], weights: Sequence[float]) -> MicroBatch:
    """Whole rows, preferred answers first; there are no targets but the pairs."""
    rows = [[*answer.prompt, *answer.answer] for answer in (*chosen, *rejected)]
    ids_BT = padded(rows)
    extras = {"last_B": torch.tensor([len(row) - 1 for row in rows]), "weights_P": torch.tensor(list(weights))}
    return task_batch(ids_BT, torch.full_like(ids_BT, -100), count=len(chosen), extras=extras)


class RewardObjective:
    """Weighted loss of Bradley and Terry, summed over pairs."""

    def __init__(self, model: RewardModel, *, label_smoothing: float = 0.0):
        self._model = model
        self._label_smoothing = label_smoothing

    def __call__(self, network: Network, batch: MicroBatch) -> Tensor:  # noqa: ARG002 - it is the model's own
        """A scalar with a gradient."""
        extras = extras_of(batch)
        chosen_P, rejected_P = self._model.rewards(batch.ids_BT, extras["last_B"]).chunk(2)
        value_P = pairwise(chosen_P, rejected_P, label_smoothing=self._label_smoothing)
        return (value_P * extras["weights_P"]).sum()


def save_reward_model(directory: Path, model: RewardModel, tokenizer: Tokenizer, *, lineage: dict[str, Any]) -> str:
    """Write it so that transformers' `AutoModelForSequenceClassification` opens it; returns its digest."""
    network = model.network
    with storage.publish(directory) as scratch:
        weights = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in network.state_dict().items()
            if not name.startswith("lm_head")
        }
        weights["score.weight"] = model.score.weight.detach().cpu().contiguous()
        save_file(weights, scratch / WEIGHTS, metadata={"format": "pt"})
        tokenizer.save(scratch)
        end = tokenizer.end_of_text
        config = to_hugging_face(network.config, begin=end, ends=[end], pad=end)
        (architecture,) = config["architectures"]
        labels = {
            "architectures": [classifier_of(architecture)],
            "id2label": {"0": "reward"},
            "label2id": {"reward": 0},
        }
        storage.write_json(scratch / "config.json", {**config, **labels})
        told = {"tokenizer": tokenizer.digest, "lineage": lineage}
        digest = write_head(scratch, kind=_FORMAT, version=_VERSION, told=told)
    (directory / storage.MANIFEST).unlink()
    return digest


def load_reward_model(directory: Path) -> RewardModel:
    """Open what `save_reward_model` wrote.

    Raises:
        RefusedError: it is no reward model of ours, or its files were changed.
    """
    if not (directory / LINEAGE).is_file():
        raise RefusedError(f"`{directory}` is no reward model", hint="`chatwright reward RECIPE` makes one")
    read_head(directory, kind=_FORMAT, version=_VERSION)
    require_own_files(directory)
    model = RewardModel(Network(read_config(directory, is_classifier=True)))
    try:
        weights = load_file(directory / WEIGHTS)
        model.score.load_state_dict({"weight": weights.pop("score.weight")})
        found = model.network.load_state_dict(weights, strict=False)
    except (SafetensorError, KeyError, RuntimeError, OSError) as error:
        raise RefusedError(f"the weights of `{directory}` do not fit: {error}") from error
    if found.unexpected_keys or set(found.missing_keys) - {"lm_head.weight"}:
        raise RefusedError(f"the weights of `{directory}` do not fit: {found}")
    return model.eval()


def tokenizer_of(directory: Path) -> Tokenizer:
    """The tokens that a reward model reads."""
    return load_tokenizer(directory)
