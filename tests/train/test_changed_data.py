"""Data that is damaged or changed while a run goes on, or between its halves: refused with the difference, or counted."""

import pytest
import torch

from chatwright.foundation.config import validate
from chatwright.foundation.errors import ExitCode, RefusedError, StoppedError
from chatwright.foundation.stage import StageContext
from chatwright.foundation.stopping import StopFlag
from chatwright.tokens.shards import ShardWriter, write_index
from chatwright.tokens.tokenizer import TokenizerConfig, train_tokenizer
from chatwright.train import pretrain
from chatwright.train.checkpoints import Checkpoints

SHAPE = {"width": 16, "layers": 1, "heads": 2, "key_heads": 1, "head_width": 8, "mlp_width": 24, "context_length": 16}
NAMES = [f"{number:x}" for number in range(1, 13)]
TEXTS = {name: f"the sea takes rope {name} and gives salt back. " * 400 for name in NAMES}  # several blocks a shard


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write(folder, names=NAMES, *, texts=TEXTS, shards=3, without=()):
    """Token shards of these documents in this order, some shards not written."""
    tokenizer = train_tokenizer(["bytes need no text"], TokenizerConfig(kind="bytes"))
    for name in ("tokenizer", "tokens"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder / "tokenizer")
    entries, each = [], -(-len(names) // shards)
    for number in range(shards):
        writer = ShardWriter(vocabulary_size=tokenizer.size, end_of_text=tokenizer.end_of_text)
        for name in names[number * each : (number + 1) * each]:
            writer.add(tokenizer.encode(texts[name]), domain=0, num_bytes=len(texts[name]), document=name)
        if number not in without:
            entries.append(writer.save(folder / "tokens" / f"train-{number:05d}"))
    splits = {"train": entries, "heldout": []}
    write_index(folder / "tokens", splits, tokenizer=tokenizer.digest, vocabulary=tokenizer.size, domains=["sea"])
    return folder


class Acting(StopFlag):
    """The loop asks it after each step; at one of them something happens, or somebody asks for a stop."""

    def __init__(self, *, at, act=None):
        self._asked, self._at, self._act, self._is_stopped = 0, at, act, False

    @property
    def requested(self):
        self._asked += 1
        if self._asked == self._at:
            if self._act is None:
                self._is_stopped = True
            else:
                self._act()
        return self._is_stopped

    @requested.setter
    def requested(self, value):
        self._is_stopped = value


def train(material, output, *, stop=None, **section):
    output.mkdir(exist_ok=True)
    common = {"device": "cpu", "precision": "float32", "threads": 1, "steps": 8, "batch_rows": 4, "micro_rows": 4}
    config = validate(
        pretrain.PretrainInputs,
        {"model": SHAPE, "pretrain": {**common, "checkpoint_every": 2, **section}},
        where="test",
    )
    inputs = {"tokens": material / "tokens", "tokenizer": material / "tokenizer"}
    context = StageContext(config=config, inputs=inputs, output=output, seed=1, stop=stop or StopFlag())
    return pretrain.run(context)


def test_a_shard_that_is_damaged_while_a_run_uses_it_ends_the_run_and_it_goes_on_once_that_is_mended(tmp_path):
    material = write(tmp_path / "material")
    straight = train(material, tmp_path / "straight")
    paths = sorted((material / "tokens").glob("*.tokens.npy"))
    sound = {path: path.read_bytes() for path in paths}

    def damage():
        for path in paths:
            path.write_bytes(bytes(byte ^ 1 for byte in sound[path]))

    with pytest.raises(RefusedError, match="damaged while it was in use: block") as caught:
        train(material, tmp_path / "run", stop=Acting(at=4, act=damage))
    assert caught.value.exit_code == ExitCode.REFUSED
    assert Checkpoints(tmp_path / "run" / "checkpoints").newest_step() >= 2
    with pytest.raises(RefusedError, match="SHA-256"):
        train(material, tmp_path / "run")
    for path, data in sound.items():
        path.write_bytes(data)
    assert train(material, tmp_path / "run")["model_digest"] == straight["model_digest"]


def test_a_run_that_may_leave_damaged_shards_out_counts_them_and_learns_what_the_others_teach(tmp_path):
    material, rest = write(tmp_path / "material"), write(tmp_path / "rest", without=(1,))
    path = material / "tokens" / "train-00001.tokens.npy"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(RefusedError, match=path.name):
        train(material, tmp_path / "refused")
    summary = train(material, tmp_path / "run", skip_damaged=True)
    (one,) = summary["left_out"]
    assert (one["shard"], one["documents"]) == ("train-00001", 4)
    assert one["tokens"] == sum(len(TEXTS[name].encode()) + 1 for name in NAMES[4:8])
    assert summary["model_digest"] == train(rest, tmp_path / "rest-run")["model_digest"]


CHANGES = {
    "added": ([*NAMES, "ff"], {"ff": "new " * 40}, "training documents was 12 and is now 13"),
    "removed": (NAMES[:-1], {}, "training documents was 12 and is now 11"),
    "reordered": (list(reversed(NAMES)), {}, "shard train-00000 was"),
    "edited": (NAMES, {"3": TEXTS["3"].replace("salt", "sand")}, "shard train-00000 was"),
    "exchanged": ([*NAMES[:-1], "ee"], {"ee": TEXTS["c"]}, "names of documents in any order was"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_whose_data_changed_between_its_halves_is_refused_with_the_difference(tmp_path, change):
    names, texts, told = CHANGES[change]
    straight = train(write(tmp_path / "material"), tmp_path / "straight")
    with pytest.raises(StoppedError):
        train(tmp_path / "material", tmp_path / "run", stop=Acting(at=3))
    changed = write(tmp_path / "changed", names, texts=TEXTS | texts)
    with pytest.raises(RefusedError, match="belongs to other data") as caught:
        train(changed, tmp_path / "run")
    assert caught.value.exit_code == ExitCode.REFUSED
    assert told in caught.value.cause
    assert ("names of documents" in caught.value.cause) == (change not in ("reordered", "edited"))
    assert train(tmp_path / "material", tmp_path / "run")["model_digest"] == straight["model_digest"]


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"batch_rows": 8}, "batch_rows was 4 and is now 8"),
        ({"steps": 9}, "steps was 8 and is now 9"),
        ({"growth": {"start": 8}}, "growth is new"),
    ],
)
def test_a_changed_setting_of_the_order_is_told_by_name(tmp_path, section, told):
    material = write(tmp_path / "material")
    with pytest.raises(StoppedError):
        train(material, tmp_path / "run", stop=Acting(at=3))
    with pytest.raises(RefusedError, match="belongs to other data") as caught:
        train(material, tmp_path / "run", **section)
    assert told in caught.value.cause
    assert "shard" not in caught.value.cause
