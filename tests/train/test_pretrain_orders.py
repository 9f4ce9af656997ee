"""The stage `pretrain` with a curriculum or growing windows: by stored scores, by a model's loss, and with its past kept."""

import dataclasses

import numpy as np
import pytest
import torch

from chatwright.foundation import storage
from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError, RefusedError, StoppedError, UsageError
from chatwright.foundation.stage import StageContext
from chatwright.foundation.stopping import StopFlag
from chatwright.model.directory import load_model
from chatwright.tokens.shards import ShardWriter, TextScores, TokenData, write_index
from chatwright.tokens.tokenizer import TokenizerConfig, load_tokenizer, train_tokenizer
from chatwright.train import pretrain
from chatwright.train.checkpoints import Checkpoints
from chatwright.train.curriculum import CurriculumConfig
from chatwright.train.document_scores import document_scores
from chatwright.train.pretrain import PretrainInputs

SHAPE = {"width": 16, "layers": 1, "heads": 2, "key_heads": 1, "head_width": 8, "mlp_width": 24, "context_length": 16}
DOCUMENTS = 40


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Documents of which the n-th has n for its scores and repeats a word the more, the later it stands."""
    folder = tmp_path_factory.mktemp("orders")
    words = ["sea", "salt", "wind", "rope", "gull", "tide", "sand", "dune"]
    texts = [" ".join(words[: 1 + number // 5] * 20) for number in range(DOCUMENTS)]
    tokenizer = train_tokenizer(texts, TokenizerConfig(kind="words", vocabulary_size=300))
    (folder / "tokenizer").mkdir()
    tokenizer.save(folder / "tokenizer")
    (folder / "tokens").mkdir()
    shards = {}
    for split in ("train", "heldout"):
        writer = ShardWriter(vocabulary_size=tokenizer.size, end_of_text=tokenizer.end_of_text)
        for number, text in enumerate(texts):
            scores = TextScores(number, number, number, number)
            writer.add(tokenizer.encode(text), domain=number % 2, num_bytes=len(text), scores=scores)
        shards[split] = [writer.save(folder / "tokens" / f"{split}-00000")]
    digest, domains = load_tokenizer(folder / "tokenizer").digest, ["even", "odd"]
    write_index(folder / "tokens", shards, tokenizer=digest, vocabulary=tokenizer.size, domains=domains)
    return folder


def context_of(material, output, *, stop=None, seed=1, **section):
    output.mkdir(exist_ok=True)
    common = {"device": "cpu", "precision": "float32", "threads": 1, "steps": 6, "batch_rows": 4, "micro_rows": 2}
    config = validate(PretrainInputs, {"model": SHAPE, "pretrain": {**common, **section}}, where="test")
    inputs = {"tokens": material / "tokens", "tokenizer": material / "tokenizer"}
    return StageContext(config=config, inputs=inputs, output=output, seed=seed, stop=stop or StopFlag())


@pytest.fixture(scope="module")
def scorer(material):
    pretrain.run(context_of(material, material / "scorer", steps=20))
    return str(material / "scorer" / "model")


def test_cleanings_scores_stand_beside_the_tokens_and_higher_is_harder(material, tmp_path):
    train = TokenData(material / "tokens").split("train")
    tokenizer = load_tokenizer(material / "tokenizer")
    for score, expected in (("length", 1), ("mtld", 1), ("compression", -1), ("flesch", -1)):
        config = CurriculumConfig(score=score)
        found = document_scores(train, config, tokenizer=tokenizer, directory=tmp_path, device=torch.device("cpu"))
        assert found.tolist() == [expected * number for number in range(DOCUMENTS)]


def test_a_models_loss_is_its_own_of_each_documents_beginning(material, scorer, tmp_path):
    train = TokenData(material / "tokens").split("train")
    config = CurriculumConfig(score="loss", scorer=scorer, scorer_tokens=8)
    tokenizer = load_tokenizer(material / "tokenizer")
    found = document_scores(train, config, tokenizer=tokenizer, directory=tmp_path, device=torch.device("cpu"))
    network = load_model(material / "scorer" / "model").network
    for document in list(train.documents())[::13]:
        ids = [tokenizer.end_of_text, *document.ids[:8].tolist()]
        scores = network(torch.tensor([ids[:-1]]))[0].log_softmax(dim=-1)
        expected = -float(scores.gather(1, torch.tensor(ids[1:])[:, None]).mean().detach())
        assert found[document.number] == pytest.approx(expected, abs=2e-5)
    assert len(set(found)) > 4
    again = document_scores(train, config, tokenizer=tokenizer, directory=tmp_path, device=torch.device("cpu"))
    assert np.array_equal(found, again)


def test_a_scorer_that_reads_other_tokens_is_refused(material, scorer, tmp_path):
    other = train_tokenizer(["another text"], TokenizerConfig(kind="words", vocabulary_size=300))
    train = TokenData(material / "tokens").split("train")
    config = CurriculumConfig(score="loss", scorer=scorer)
    with pytest.raises(RefusedError, match="other tokens"):
        document_scores(train, config, tokenizer=other, directory=tmp_path, device=torch.device("cpu"))


def test_shards_from_before_scores_are_read_and_refused_for_a_curriculum_alone(material, tmp_path):
    folder = tmp_path / "tokens"
    folder.mkdir()
    writer = ShardWriter(vocabulary_size=50, end_of_text=0)
    writer.add([1, 2, 3], domain=0, num_bytes=3)
    entry = writer.save(folder / "train-00000")
    without = {kind: digest for kind, digest in entry["digests"].items() if kind != "scores"}
    entry |= {"digests": without, "digest": storage.digest_json(without)}
    write_index(folder, {"train": [entry]}, tokenizer="t", vocabulary=50, domains=["d"])
    index = storage.read_json(folder / "index.json")
    storage.write_json(folder / "index.json", index | {"version": 2})
    split = TokenData(folder).split("train")
    assert [document.ids.tolist() for document in split.documents()] == [[1, 2, 3]]
    with pytest.raises(RefusedError, match="no scores"):
        split.scores("flesch")


@pytest.mark.parametrize("direction", ["forward", "random"])
def test_every_order_sees_the_same_number_of_targets(material, tmp_path, direction):
    part = {"score": "flesch", "direction": direction}
    by_score = pretrain.run(context_of(material, tmp_path / "a", curriculum=part, growth={"start": 8}))
    plain = pretrain.run(context_of(material, tmp_path / "b"))
    assert by_score["target_tokens"] == plain["target_tokens"] == 6 * 4 * 16
    assert by_score["model_digest"] != plain["model_digest"]


@pytest.mark.parametrize(
    "changed",
    [
        {"curriculum": {"score": "flesch", "direction": "reverse"}},
        {"curriculum": {"score": "length"}},
        {"curriculum": {"score": "flesch"}, "growth": {"start": 8}},
        {"curriculum": {"score": "flesch"}, "batch_growth": {"start": 2}},
        {"curriculum": {"score": "flesch"}, "separate_documents": True},
        {"mixture": {"weights": {"even": 1}, "stages": [{"from_step": 2, "weights": {"odd": 1}}]}},
        {},
    ],
)
def test_a_run_whose_past_would_have_been_another_one_does_not_go_on(material, tmp_path, changed):
    flag = StopFlag()
    flag.requested = True
    with pytest.raises(StoppedError):
        pretrain.run(context_of(material, tmp_path, stop=flag, curriculum={"score": "flesch"}))
    with pytest.raises(RefusedError, match="other data"):
        pretrain.run(context_of(material, tmp_path, **changed))
    resumed = pretrain.run(context_of(material, tmp_path, curriculum={"score": "flesch"}))
    straight = pretrain.run(context_of(material, tmp_path / "straight", curriculum={"score": "flesch"}))
    assert resumed["model_digest"] == straight["model_digest"]


def test_changed_source_stages_are_refused_too(material, tmp_path):
    flag = StopFlag()
    flag.requested = True
    weights = {"weights": {"even": 1}, "max_epochs": 99}
    with pytest.raises(StoppedError):
        pretrain.run(context_of(material, tmp_path, stop=flag, mixture=weights))
    stages = [{"from_step": 3, "weights": {"odd": 1}}]
    with pytest.raises(RefusedError, match="other data"):
        pretrain.run(context_of(material, tmp_path, mixture={**weights, "stages": stages}))


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"curriculum": {"score": "loss"}}, "needs `scorer`"),
        ({"curriculum": {"score": "flesch", "scorer": "x"}}, "needs `scorer`"),
        ({"curriculum": {"score": "flesch", "scorer_tokens": 4}}, "no effect"),
        ({"curriculum": {"score": "flesch"}, "mixture": {"weights": {"even": 1}}}, "give one of them"),
    ],
)
def test_settings_without_effect_are_refused(material, tmp_path, section, told):
    with pytest.raises(ConfigError, match=told):
        context_of(material, tmp_path, **section)


def test_windows_that_begin_as_long_as_they_end_do_not_grow(material, tmp_path):
    with pytest.raises(UsageError, match="below the context of 16"):
        pretrain.run(context_of(material, tmp_path, growth={"start": 16}))


GROWN = {
    "batch_growth": {"start": 1, "warmup_share": 0.6},
    "separate_documents": True,
    "average": {"share": 0.5, "use": "always"},
}


def test_a_stage_whose_batch_grows_reads_separated_documents_and_leaves_its_average(material, tmp_path):
    grown = pretrain.run(context_of(material, tmp_path / "grown", **GROWN))
    assert grown["target_tokens"] == (1 + 1 + 2 + 2 + 4 + 4) * 16
    plain = pretrain.run(context_of(material, tmp_path / "plain", **{**GROWN, "average": None}))
    assert grown["model_digest"] != plain["model_digest"]
    saved = Checkpoints(tmp_path / "grown" / "checkpoints").load(6)
    network = load_model(tmp_path / "grown" / "model").network
    assert all(torch.equal(network.get_parameter(name), value) for name, value in saved.average.items())


def test_such_a_stage_stopped_within_its_tail_ends_with_the_same_model(material, tmp_path):
    straight = pretrain.run(context_of(material, tmp_path / "straight", **GROWN))
    stopping = context_of(material, tmp_path / "halves", **GROWN, checkpoint_every=4, save_in_background=False)
    with pytest.raises(StoppedError):
        pretrain.run(
            dataclasses.replace(stopping, stop=StopAfter(tmp_path / "halves" / "checkpoints" / "step-00000004"))
        )
    resumed = pretrain.run(context_of(material, tmp_path / "halves", **GROWN))
    assert resumed["model_digest"] == straight["model_digest"]


class StopAfter(StopFlag):
    """Somebody asks for a stop once a checkpoint is there."""

    def __init__(self, path):
        self._path = path

    @property
    def requested(self):
        return self._path.exists()

    @requested.setter
    def requested(self, value):
        pass


def test_stages_of_a_mixture_begin_at_their_step_where_the_batch_grows(material, tmp_path):
    stages = [{"from_step": 3, "weights": {"odd": 1}}]
    mixture = {"weights": {"even": 1}, "max_epochs": 99, "stages": stages}
    summary = pretrain.run(
        context_of(material, tmp_path, mixture=mixture, batch_growth={"start": 1, "warmup_share": 0.6})
    )
    tokens = {domain: share["tokens"] for domain, share in summary["mixture"].items()}
    assert tokens == {"even": (1 + 1 + 2) * 16, "odd": (2 + 4 + 4) * 16}
