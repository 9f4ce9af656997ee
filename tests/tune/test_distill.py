"""Distilling whole: the four ways, a teacher kept on disk once, tokenizers that differ, students of a wanted size."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from token_folder import TEXTS, write_tokens

from chatwright.feedback.conversations import read_conversations
from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError, DataError, RefusedError, StoppedError, UsageError
from chatwright.foundation.stage import StageContext
from chatwright.foundation.stopping import StopFlag
from chatwright.foundation.streams import seed_for
from chatwright.model.directory import load_model, save_model
from chatwright.model.prompts import ChatEncoder
from chatwright.tokens.shards import TokenData
from chatwright.train.batches import IGNORED
from chatwright.train.objectives import next_token
from chatwright.tune.chats import Sample
from chatwright.tune.distill import objective as objectives
from chatwright.tune.distill import stage
from chatwright.tune.distill.losses import DistilSettings, soft_loss
from chatwright.tune.distill.objective import KeptTeacher, OnlineTeacher
from chatwright.tune.distill.settings import DistillConfig, shape_of
from chatwright.tune.distill.source import LessonSource, Plan, Windows
from chatwright.tune.distill.teacher import KeptShares, keep_shares
from chatwright.tune.rollouts import WritingRules, write_answers
from chatwright.tune.tasks import one_a_row

SHAPE = {"width": 16, "layers": 1, "heads": 2, "key_heads": 2, "head_width": 8, "mlp_width": 24, "context_length": 32}


def samples_of(tokenizer):
    """Some with a part of their targets masked, of several lengths."""
    found = []
    for number, text in enumerate(TEXTS):
        ids = tokenizer.encode(text)
        targets = [IGNORED] * number + ids[1:][number:]
        found.append(Sample(ids[:-1], targets))
    return found


def batch_of(tokenizer):
    return one_a_row(samples_of(tokenizer))


def gradients(network, value):
    network.zero_grad()
    value.backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def assert_same(network, one, other, tolerance=1e-4):
    assert one.item() == pytest.approx(other.item(), rel=tolerance)
    first, second = gradients(network, one), gradients(network, other)
    assert float((first - second).norm() / second.norm()) < tolerance


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_the_online_loss_is_the_formula_over_all_targets_and_holds_few_scores_at_once(make_network, tiny_tokenizer, monkeypatch, rows):  # fmt: skip
    student, teacher = make_network(seed=1, std=0.1).requires_grad_(), make_network(seed=2)
    monkeypatch.setattr(objectives, "_MAX_SCORES", rows * student.config.vocabulary_size)
    settings, batch, widths = DistilSettings(beta=0.3, temperature=2.0, soft_share=0.7), batch_of(tiny_tokenizer), []
    kept = batch.targets_BT != IGNORED
    scores, wanted = student(batch.ids_BT)[kept], teacher(batch.ids_BT)[kept].detach()
    soft = soft_loss(scores, wanted, settings).sum()
    expected = 0.7 * soft + 0.3 * next_token(student, batch)
    teacher.lm_head.register_forward_hook(lambda module, inputs, output: widths.append(len(inputs[0])))
    value = OnlineTeacher(teacher, settings)(student, batch)
    assert_same(student, value, expected)
    assert max(widths) <= rows


def test_a_teacher_that_is_the_student_has_nothing_to_teach(make_network, tiny_tokenizer):
    student = make_network(seed=1).requires_grad_()
    value = OnlineTeacher(make_network(seed=1), DistilSettings(soft_share=1.0))(student, batch_of(tiny_tokenizer))
    assert value.item() == pytest.approx(0.0, abs=1e-4)
    assert gradients(student, value).norm() < 1e-3


def kept_of(folder, teacher, samples, kept, **facts):
    return keep_shares(folder, teacher, samples, kept=kept, temperature=1.0, facts={"teacher": "a", **facts}, rows=2, stop=StopFlag())  # fmt: skip


def source_of(samples, shares=None, *, micro_rows=3):
    return LessonSource(samples, Plan(3, micro_rows, 1, "x"), shares=shares)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_a_teacher_kept_whole_teaches_what_it_teaches_beside_the_student(make_network, tiny_tokenizer, tmp_path, beta):
    student, teacher = (
        make_network(seed=1, std=0.1).requires_grad_(),
        make_network(seed=2, std=0.1).requires_grad_(False),
    )
    samples, settings = samples_of(tiny_tokenizer), DistilSettings(beta=beta)
    shares = kept_of(tmp_path / "teacher", teacher, samples, tiny_tokenizer.size)
    (batch,) = source_of(samples, shares).step(0)
    assert_same(student, KeptTeacher(settings)(student, batch), OnlineTeacher(teacher, settings)(student, batch), 1e-3)


def test_in_parts_the_kept_shares_stand_beside_their_own_rows(make_network, tiny_tokenizer, tmp_path):
    student, teacher = (
        make_network(seed=1, std=0.1).requires_grad_(),
        make_network(seed=2, std=0.1).requires_grad_(False),
    )
    samples, settings = samples_of(tiny_tokenizer), DistilSettings()
    shares = kept_of(tmp_path / "teacher", teacher, samples, 4)
    totals = [sum(KeptTeacher(settings)(student, batch) for batch in source_of(samples, shares, micro_rows=rows).step(0)) for rows in (3, 1)]  # fmt: skip
    assert_same(student, totals[1], totals[0])


def test_the_teacher_is_asked_once_and_its_scores_are_refused_for_others(make_network, tiny_tokenizer, tmp_path):
    teacher, samples, asked = make_network(seed=2), samples_of(tiny_tokenizer), []
    teacher.lm_head.register_forward_hook(lambda *_: asked.append(1))
    kept_of(tmp_path / "teacher", teacher, samples, 4)
    times = len(asked)
    assert kept_of(tmp_path / "teacher", teacher, samples, 4).kept == 4
    assert len(asked) == times > 0
    with pytest.raises(RefusedError, match="another teacher"):
        KeptShares(tmp_path / "teacher", facts={"teacher": "b"})
    with (tmp_path / "teacher" / "ids.npy").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with pytest.raises(RefusedError):
        KeptShares(tmp_path / "teacher", facts={"teacher": "a"})


def ending(network, tokenizer):
    """The network, likely to end its turn: one number is the same in all states, and the end's score follows from it."""
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.mul_(0.1)
        network.model.embed_tokens.weight[:, 0] = 1.0
        network.model.embed_tokens.weight[ChatEncoder(tokenizer).end, 0] = 3.5
    return network


@pytest.fixture(scope="module")
def material(tmp_path_factory, make_network, tiny_tokenizer, word_tokenizer):
    folder = tmp_path_factory.mktemp("material")
    save_model(folder / "teacher", ending(make_network(seed=2), tiny_tokenizer), tiny_tokenizer, lineage={})
    save_model(folder / "endless", make_network(seed=2), tiny_tokenizer, lineage={})
    other = make_network(seed=3, std=0.1, vocabulary_size=word_tokenizer.size)
    save_model(folder / "foreign", other, word_tokenizer, lineage={"stage": "pretrain"})
    write_tokens(folder / "tokens", tiny_tokenizer)
    rows = [{"question": f"When, {number}?", "answer": "It leaves at nine."} for number in range(6)]
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def context(material, output, *, with_tokens=True, stop=None, **fields):
    output.mkdir(exist_ok=True)
    settings = {"student": SHAPE, "steps": 6, "batch_rows": 4, "micro_rows": 2, "checkpoint_every": 2}
    settings |= {"device": "cpu", "precision": "float32", "threads": 1, **fields}
    config = validate(
        DistillConfig, {key: value for key, value in settings.items() if value is not None}, where="recipe"
    )
    inputs = {"teacher": material / "teacher"} | ({"tokens": material / "tokens"} if with_tokens else {})
    return StageContext(config=config, inputs=inputs, output=output, seed=3, stop=stop or StopFlag())


WAYS = {
    "scores": {},
    "kept": {"kept_tokens": 5},
    "own": {"loss": {"beta": 1.0, "soft_share": 1.0}, "max_answer_tokens": 6},
    "text": {"max_answer_tokens": 6},
}


@pytest.mark.parametrize("by", WAYS)
def test_each_way_makes_a_student_and_a_stop_changes_no_bit(material, tmp_path, by):
    fields = {"by": by, **WAYS[by]} | ({"data": str(material / "chats.jsonl")} if by in ("own", "text") else {})
    straight = stage.run(context(material, tmp_path / "straight", **fields))
    stop = StopFlag()
    look = stop.check

    def ask_late(done):
        if "step" in done:
            look(done)

    stop.check = ask_late
    stop.requested = True
    with pytest.raises(StoppedError):
        stage.run(context(material, tmp_path / "halves", stop=stop, **fields))
    again = stage.run(context(material, tmp_path / "halves", **fields))
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("straight", "halves")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert again["model_digest"] == straight["model_digest"]
    assert straight["student_bits_per_byte"]["all"] > 0
    assert load_model(tmp_path / "straight" / "model").lineage["teacher"] == load_model(material / "teacher").digest
    assert (tmp_path / "straight" / "teacher").is_dir() == (by == "kept")
    assert (tmp_path / "straight" / "texts.jsonl").is_file() == (by == "text")


def test_the_teacher_s_answers_that_were_cut_off_are_left_out_and_told(material, tmp_path, capsys):
    fields = {"data": str(material / "chats.jsonl"), "by": "text", "max_answer_tokens": 6, "steps": 1}
    stage.run(context(material, tmp_path / "out", with_tokens=False, **fields))
    kept = [json.loads(line)["messages"] for line in (tmp_path / "out" / "texts.jsonl").read_text().splitlines()]
    teacher = load_model(material / "teacher")
    encoder = ChatEncoder(teacher.tokenizer)
    prompts = [encoder.prompt(item.messages[:-1]) for item in read_conversations(material / "chats.jsonl")]
    rules = WritingRules(6, 1.0, encoder.stop_ids())
    written = write_answers(teacher.network, prompts, rules, seed=seed_for(3, "teacher", 0))
    whole = [teacher.tokenizer.decode(row.answer).strip() for row in written if row.answer[-1] in rules.stop_ids]
    assert [messages[-1]["content"] for messages in kept] == [text for text in whole if text]
    assert len(kept) < len(whole) < len(written) == 6
    assert f"{len(whole) - len(kept)} were empty and {6 - len(whole)} cut off at 6 tokens" in capsys.readouterr().err


def test_a_teacher_that_ends_no_answer_has_nothing_to_be_learned(material, tmp_path):
    fields = {"data": str(material / "chats.jsonl"), "by": "text", "max_answer_tokens": 6}
    with pytest.raises(DataError, match="6 cut off at 6 tokens") as caught:
        stage.run(context(material, tmp_path / "out", teacher=str(material / "endless"), **fields))
    assert "max_answer_tokens" in caught.value.hint


def test_what_a_student_writes_must_find_room_in_its_teacher_s_context_too(material, tmp_path):
    question = "When does the ferry leave for the harbour? " * 3
    (tmp_path / "chats.jsonl").write_text(json.dumps({"question": question, "answer": "At nine."}) + "\n")
    fields = {"data": str(tmp_path / "chats.jsonl"), "by": "own", **WAYS["own"]}
    with pytest.raises(DataError, match="1 of 1 questions leave no room"):
        stage.run(context(material, tmp_path / "out", student={**SHAPE, "context_length": 256}, **fields))


def test_a_student_with_other_tokens_is_refused_by_name_unless_the_teacher_writes(material, tmp_path):
    fields = {"student": None, "begin": str(material / "foreign"), "data": str(material / "chats.jsonl")}
    with pytest.raises(RefusedError, match="different tokenizers") as caught:
        stage.run(context(material, tmp_path / "refused", with_tokens=False, **fields))
    assert "text" in caught.value.hint
    report = stage.run(context(material, tmp_path / "out", with_tokens=False, by="text", max_answer_tokens=6, **fields))
    assert report["steps"] == 6
    assert load_model(tmp_path / "out" / "model").lineage["base"] == load_model(material / "foreign").digest


def test_a_student_that_begins_from_a_model_may_learn_by_low_rank_updates(material, tmp_path):
    fields = {"student": None, "begin": str(material / "teacher"), "method": "lora", "lora": {"rank": 2}}
    report = stage.run(context(material, tmp_path / "out", optimizer={"kind": "adamw"}, **fields))
    assert 0 < report["share"] < 1


def test_without_documents_and_conversations_there_is_nothing_to_learn(material, tmp_path):
    with pytest.raises(DataError, match="nothing to learn"):
        stage.run(context(material, tmp_path / "out", with_tokens=False))


def test_windows_stay_where_they_are_and_cover_the_split_once(material):
    split = TokenData(material / "tokens").split("train")
    windows = Windows(split, length=16)
    whole = np.concatenate([windows[number].targets for number in range(len(windows))])
    assert whole.tolist() == split.slice(1, len(whole)).tolist()
    assert len(split) - len(whole) <= 16


@pytest.mark.parametrize("parameters", [200_000, 1_000_000, 3_000_000, 30_000_000])
def test_a_student_has_about_the_size_that_was_asked_for(parameters):
    shape = shape_of(parameters, vocabulary_size=2048, context_length=128)
    assert abs(shape.num_parameters() - parameters) < parameters / 5


def test_a_size_below_the_vocabulary_is_refused():
    with pytest.raises(UsageError, match="no student of 100,000"):
        shape_of(100_000, vocabulary_size=50_000, context_length=128)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "give one of"),
        ({"parameters": 10_000, "begin": "x"}, "give one of"),
        ({"parameters": 10_000, "kept_tokens": 3}, "`kept_tokens` has no effect"),
        ({"parameters": 10_000, "by": "own", "data": "x", "loss": {"soft_share": 0.5}}, "soft_share"),
        ({"parameters": 10_000, "by": "text"}, "needs `data`"),
        ({"parameters": 10_000, "method": "lora"}, "needs `begin`"),
    ],
)
def test_settings_without_effect_are_refused(fields, told):
    with pytest.raises(ConfigError, match=told):
        validate(DistillConfig, fields, where="recipe")
