"""Aligning whole: exact accumulation, the reference, resuming to the same bits, rewards, and settings that mean something."""

import contextlib
import copy
import json

import pytest
import torch
from safetensors.torch import load_file

from chatwright.feedback.conversations import Message
from chatwright.feedback.store import Answer, FeedbackStore, Rating
from chatwright.foundation.config import validate
from chatwright.foundation.devices import Placement
from chatwright.foundation.errors import ConfigError, DataError, StoppedError
from chatwright.foundation.stage import StageContext
from chatwright.foundation.stopping import StopFlag
from chatwright.model.adapter import LoraConfig
from chatwright.model.directory import load_model, save_model
from chatwright.model.engine.engine import Engine
from chatwright.model.generation import GenerationRequest, Sampling
from chatwright.model.prompts import QWEN3, ChatEncoder
from chatwright.train.batches import IGNORED
from chatwright.tune.preferences import align
from chatwright.tune.preferences.objectives import PairObjective, PolicyObjective, Strengths, VerdictObjective
from chatwright.tune.preferences.policy import GroupRules, RolloutSource
from chatwright.tune.preferences.rewards import RewardConfig, Scorer
from chatwright.tune.preferences.scoring import answer_scores
from chatwright.tune.preferences.settings import AlignConfig
from chatwright.tune.preferences.source import (
    EncodedPair,
    EncodedVerdict,
    PairSource,
    StepOrder,
    VerdictSource,
    as_sample,
    encode_answer,
    sums_of,
)
from chatwright.tune.reference import Learner
from chatwright.tune.rollouts import Answered, WritingRules, write_answers
from chatwright.tune.tasks import one_a_row

QUESTIONS = ("When?", "Where to?", "How far is it to the harbour?", "Which ferry?")
ANSWERS = (
    ("At nine.", "No."),
    ("To the island.", "Somewhere, perhaps."),
    ("Twelve minutes.", "Far."),
    ("The first.", "Any."),
)
ASKED = [(Message("user", question),) for question in QUESTIONS]


@pytest.fixture(scope="module")
def encoder(tiny_tokenizer):
    return ChatEncoder(tiny_tokenizer)


@pytest.fixture(scope="module")
def pairs(encoder):
    return [
        EncodedPair(*(encode_answer(asked, text, encoder) for text in both), weight)
        for asked, both, weight in zip(ASKED, ANSWERS, (1.0, 0.5, 2.0, 0.5), strict=True)
    ]


def new_learner(make_network, *, method="lora", dropout=0.0, placement=None):
    lora = LoraConfig(rank=2, dropout=dropout)
    return Learner(make_network(), method=method, lora=lora, seed=1, keeps_reference=True, placement=placement)


def moved(learner):
    """The same after some training: the updates are no longer zero."""
    generator = torch.Generator().manual_seed(5)
    for parameter in learner.trained.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return learner


def reference_sums(pairs, learner):
    with learner.reference() as network:
        return torch.stack([sums_of(network, side, rows=2) for side in ([p.chosen for p in pairs], [p.rejected for p in pairs])], dim=1)  # fmt: skip


def pair_source(pairs, learner, *, micro_rows):
    order = StepOrder(rows=4, micro_rows=micro_rows, seed=3, fingerprint="x")
    return PairSource(pairs, reference_sums=reference_sums(pairs, learner), order=order)


def gradient(learner, objective, batches):
    learner.trained.zero_grad()
    total = sum(objective(learner.network, batch) for batch in batches)
    total.backward()
    found = [p.grad for p in learner.trained.parameters() if p.grad is not None]
    return total.detach(), torch.cat([part.flatten() for part in found])


def test_an_answer_is_encoded_as_the_model_would_write_it(encoder, tiny_tokenizer):
    answered = encode_answer(ASKED[0], "At nine.", encoder)
    assert answered.prompt == encoder.prompt(ASKED[0])
    assert answered.answer[-1] == encoder.end
    assert tiny_tokenizer.decode(answered.answer) == "At nine."
    sample = as_sample(answered)
    assert [target for target in sample.targets if target != IGNORED] == answered.answer


def test_an_answer_after_earlier_turns_is_its_own_turn_alone_where_the_template_adds_thoughts(encoder, tiny_tokenizer):
    thoughtful = copy.copy(encoder)
    thoughtful.form = QWEN3
    talk = (Message("user", "Is it open?"), Message("assistant", "Yes."), *ASKED[0])
    answered, alone = (encode_answer(messages, "At nine.", thoughtful) for messages in (talk, ASKED[0]))
    assert answered.answer == alone.answer
    assert tiny_tokenizer.decode(answered.answer) == "At nine."
    assert answered.prompt == thoughtful.prompt(talk)


def test_an_answer_with_a_thought_of_its_own_is_encoded_whole_where_the_template_knows_thoughts(
    encoder, tiny_tokenizer
):
    thoughtful = copy.copy(encoder)
    thoughtful.form = QWEN3
    text = "<think>\nhm, 2+2\n</think>\n\nFour."
    answered = encode_answer(ASKED[0], text, thoughtful)
    assert tiny_tokenizer.decode(answered.answer) == text
    whole = thoughtful.conversation([*ASKED[0], Message("assistant", text)]).ids
    assert [*answered.prompt, *answered.answer] == whole[: len(answered.prompt) + len(answered.answer)]
    assert answered.prompt == thoughtful.prompt(ASKED[0], thinking=True)


@pytest.mark.parametrize("method", ["lora", "all"])
def test_before_training_policy_and_reference_are_one_and_a_pair_costs_log_two(make_network, pairs, method):
    learner = new_learner(make_network, method=method)
    batches = pair_source(pairs, learner, micro_rows=4).step(0)
    total, _ = gradient(learner, PairObjective("dpo", Strengths(0.1)), batches)
    assert total.item() == pytest.approx(4 * 0.693147, rel=1e-4)  # weights have a mean of one


@pytest.mark.parametrize("method", ["lora", "all"])
def test_the_reference_stays_while_the_policy_moves(make_network, pairs, method):
    learner = new_learner(make_network, method=method)
    before = reference_sums(pairs, learner)
    moved(learner)
    with learner.policy() as network:
        assert not torch.allclose(sums_of(network, [pairs[0].chosen], rows=1), before[:1, 0], atol=1e-3)
    assert torch.allclose(reference_sums(pairs, learner), before)


@pytest.mark.parametrize("kind", ["dpo", "ipo", "simpo", "orpo"])
def test_pairs_one_by_one_have_the_loss_and_the_gradient_of_all_at_once(make_network, pairs, kind):
    learner = moved(new_learner(make_network))
    objective = PairObjective(kind, Strengths(0.2, 0.5, 0.1 if kind == "dpo" else 0.0, 0.3))
    whole = gradient(learner, objective, pair_source(pairs, learner, micro_rows=4).step(0))
    parts = gradient(learner, objective, pair_source(pairs, learner, micro_rows=1).step(0))
    assert parts[0].item() == pytest.approx(whole[0].item(), rel=1e-5)
    assert float((parts[1] - whole[1]).norm() / whole[1].norm()) < 1e-4


def verdict_source(pairs, learner, *, micro_rows):
    verdicts = [EncodedVerdict(side, good, 1.0) for pair in pairs for side, good in ((pair.chosen, True), (pair.rejected, False))]  # fmt: skip
    with learner.reference() as network:
        sums = sums_of(network, [verdict.answered for verdict in verdicts], rows=8)
    order = StepOrder(rows=8, micro_rows=micro_rows, seed=3, fingerprint="x")
    return VerdictSource(verdicts, reference_sums=sums, learner=learner, order=order)


def test_verdicts_share_the_reference_point_of_the_whole_step_however_they_are_split(make_network, pairs):
    learner = moved(new_learner(make_network))
    objective = VerdictObjective(Strengths(0.2))
    whole = gradient(learner, objective, verdict_source(pairs, learner, micro_rows=8).step(0))
    parts = gradient(learner, objective, verdict_source(pairs, learner, micro_rows=1).step(0))
    assert parts[0].item() == pytest.approx(whole[0].item(), rel=1e-4)
    assert float((parts[1] - whole[1]).norm() / whole[1].norm()) < 1e-3


def test_the_reference_point_is_taken_from_answers_to_other_questions_however_few_a_step_has(make_network, pairs):
    learner = moved(new_learner(make_network))
    answers = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
    verdicts = [EncodedVerdict(answered, True, 1.0) for answered in answers]
    order = StepOrder(rows=1, micro_rows=1, seed=3, fingerprint="x")
    source = VerdictSource(verdicts, reference_sums=torch.zeros(8), learner=learner, order=order)
    found = {}
    for step in range(8):
        (batch,) = source.step(step)
        place = next(n for n, one in enumerate(answers) if as_sample(one).inputs == batch.ids_BT[0].tolist())
        found[place] = batch.extras["baseline"].item()
    others = (2, 2, 4, 4, 6, 6, 0, 0)
    turned = [Answered(one.prompt, answers[other].answer) for one, other in zip(answers, others, strict=True)]
    with learner.policy() as network:
        now = sums_of(network, turned, rows=1)
    with learner.reference() as network:
        before = sums_of(network, turned, rows=1)
    wanted = (now - before).clamp(min=0)
    assert [found[place] for place in range(8)] == pytest.approx(wanted.tolist(), abs=1e-4)
    assert wanted.max() > 0.1


@pytest.mark.parametrize("method", ["lora", "all"])
def test_policy_and_reference_are_computed_in_the_precision_of_training(make_network, pairs, method):
    placement = Placement(torch.device("cpu"), "bfloat16", 1, "for this test")
    learner = new_learner(make_network, method=method, placement=placement)
    answers = [pairs[2].chosen]
    batch = one_a_row([as_sample(answers[0])])
    with placement.autocast(), torch.no_grad():
        trained = answer_scores(learner.network, batch.ids_BT, batch.targets_BT).sums_B
    for given in (learner.reference, learner.policy):
        with given() as network:
            assert torch.equal(sums_of(network, answers, rows=1), trained)
    assert not torch.equal(sums_of(learner.network, answers, rows=1), trained)


def writing(encoder, tiny_tokenizer, *, temperature=1.0, max_tokens=6):
    return WritingRules(max_tokens, temperature, encoder.stop_ids())


def test_a_cold_draw_is_the_likeliest_answer_whatever_stands_beside_it(tiny_network, encoder, tiny_tokenizer):
    prompts = [encoder.prompt(asked) for asked in ASKED]
    rules = writing(encoder, tiny_tokenizer, temperature=1e-4)
    greedy = Sampling(max_tokens=6, temperature=0.0)
    asked = [GenerationRequest(prompt=tuple(prompt), sampling=greedy, stop_ids=rules.stop_ids) for prompt in prompts]
    wanted = [answer.ids for (answer,) in Engine(tiny_network, tiny_tokenizer).run(asked)]
    for chosen in (range(4), [2]):
        written = write_answers(tiny_network, [prompts[row] for row in chosen], rules, seed=1)
        ends = [[token for token in row.answer if token not in rules.stop_ids] for row in written]
        assert ends == [wanted[row] for row in chosen]


def test_who_writes_takes_weights_in_which_the_updates_stand(make_network):
    learner = moved(new_learner(make_network))
    ids = torch.arange(12)[None]
    with learner.writer() as plain, learner.policy() as attached:
        assert plain is not attached
        torch.testing.assert_close(plain(ids), attached(ids), atol=1e-5, rtol=1e-5)
        with learner.reference() as before:
            assert not torch.allclose(plain(ids), before(ids), atol=1e-2)


def test_answers_are_drawn_by_seed_and_end_at_their_limit(tiny_network, encoder, tiny_tokenizer):
    prompts = [encoder.prompt(ASKED[0])] * 8
    rules = writing(encoder, tiny_tokenizer)
    first, again, other = (write_answers(tiny_network, prompts, rules, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len({tuple(row.answer) for row in first}) > 4
    assert all(len(row.answer) <= 6 for row in first)


def test_answers_of_a_group_are_compared_with_each_other_and_written_by_counter(make_network, encoder, tiny_tokenizer):
    learner = new_learner(make_network)
    source = RolloutSource(
        [encoder.prompt(asked) for asked in ASKED],
        judge=lambda tasks, written: [float(sum(row.answer) % 7) for row in written],
        learner=learner,
        writing=writing(encoder, tiny_tokenizer),
        group=GroupRules(prompts=2, answers=4, micro_rows=3, by_deviation=False),
        seed=1,
        fingerprint="x",
    )
    batches, again = source.step(0), source.step(0)
    assert [batch.num_targets for batch in batches] == [3, 3, 2]
    assert all(torch.equal(one.ids_BT, other.ids_BT) for one, other in zip(batches, again, strict=True))
    advantages = torch.cat([batch.extras["advantages_B"] for batch in batches])
    assert advantages.sum().item() == pytest.approx(0.0, abs=1e-5)
    assert advantages.abs().sum() > 0


def test_a_policy_is_learned_at_the_temperature_at_which_it_wrote(make_network, encoder, tiny_tokenizer):
    learner, temperature, beta = moved(new_learner(make_network)), 0.5, 0.2
    source = RolloutSource(
        [encoder.prompt(asked) for asked in ASKED],
        judge=lambda tasks, written: [float(sum(row.answer) % 7) for row in written],
        learner=learner,
        writing=writing(encoder, tiny_tokenizer, temperature=temperature),
        group=GroupRules(prompts=1, answers=4, micro_rows=4, by_deviation=False),
        seed=1,
        fingerprint="x",
    )
    (batch,) = source.step(0)
    kept = batch.targets_BT != IGNORED

    def by_hand(network):
        shares = torch.log_softmax(network(batch.ids_BT).float() / temperature, dim=-1)
        return shares.gather(-1, batch.targets_BT.clamp(min=0)[..., None])[..., 0]

    with learner.reference() as network, torch.no_grad():
        reference = by_hand(network)
    torch.testing.assert_close(batch.extras["reference_BT"][kept], reference[kept], atol=1e-5, rtol=1e-5)
    value, found = gradient(learner, PolicyObjective(Strengths(beta), temperature=temperature), [batch])

    def expected(network, batch):
        logprobs = by_hand(network)
        ratio, away = torch.exp(logprobs - logprobs.detach()), reference - logprobs
        tokens = ratio * (beta * (torch.exp(away) - away - 1) - batch.extras["advantages_B"][:, None])
        return (torch.where(kept, tokens, 0.0).sum(dim=1) / kept.sum(dim=1)).sum()

    wanted = gradient(learner, expected, [batch])
    assert value.item() == pytest.approx(wanted[0].item(), rel=1e-4, abs=1e-6)
    assert float((found - wanted[1]).norm() / wanted[1].norm()) < 1e-4


@pytest.mark.parametrize(
    ("reward", "answer", "worth"),
    [
        ({"kind": "exact"}, " at NINE", 1.0),
        ({"kind": "exact"}, "At nine, I think.", 0.0),
        ({"kind": "contains"}, "I think at nine it is.", 1.0),
        ({"kind": "length", "words": 4}, "one two three", 0.75),
        ({"kind": "length", "words": 2}, "one two three four five", 0.0),
        ({"kind": "format", "begins": "Dear", "ends": "."}, "Dear sir", 0.5),
    ],
)
def test_rewards_have_the_values_of_their_rules(tiny_tokenizer, reward, answer, worth):
    assert score(tiny_tokenizer, answer, "At nine.", reward) == worth


def score(tokenizer, answer, expected, *rewards):
    scorer = Scorer([RewardConfig(**reward) for reward in rewards], tokenizer, device=torch.device("cpu"))
    return scorer([Answered([1], tokenizer.encode(answer))], [expected])[0]


def test_several_rewards_are_averaged_by_weight(tiny_tokenizer):
    rewards = [{"kind": "exact", "weight": 3.0}, {"kind": "length", "words": 2}]
    assert score(tiny_tokenizer, "at ten", "At nine.", *rewards) == 0.25


@pytest.fixture(scope="module")
def material(tmp_path_factory, make_network, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("material")
    save_model(folder / "base", make_network(std=0.1), tiny_tokenizer, lineage={"stage": "finetune"})
    rows = [{"prompt": f"{q} {n}", "chosen": a, "rejected": b} for n in range(4) for q, (a, b) in zip(QUESTIONS, ANSWERS, strict=True)]  # fmt: skip
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = [{"question": row["prompt"], "answer": row["chosen"]} for row in rows]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tasks))
    return folder


def context(material, output, *, objective="dpo", stop=None, **fields):
    output.mkdir(exist_ok=True)
    settings = {
        "objective": objective,
        "device": "cpu",
        "precision": "float32",
        "threads": 1,
        "batch_rows": 4,
        "micro_rows": 4,
    }
    settings |= {"checkpoint_every": 2, "max_answer_tokens": 6, "heldout_share": 0.25, "method": "all"}
    settings |= {"data": str(material / ("tasks.jsonl" if objective == "grpo" else "pairs.jsonl"))}
    if objective == "grpo":
        settings |= {"rewards": [{"kind": "length", "words": 3}], "answers_per_prompt": 2}
    config = validate(AlignConfig, {**settings, **fields}, where="recipe")
    return StageContext(
        config=config, inputs={"base": material / "base"}, output=output, seed=3, stop=stop or StopFlag()
    )


class StopAfter(StopFlag):
    """Asked for at the n-th look."""

    def __init__(self, looks):
        super().__init__()
        self._looks = looks

    @property
    def requested(self):
        self._looks -= 1
        return self._looks < 0

    @requested.setter
    def requested(self, value):
        pass


@pytest.mark.parametrize("objective", ["dpo", "kto", "grpo"])
def test_a_stage_stopped_and_called_again_gives_the_bits_of_an_unbroken_one(material, tmp_path, objective):
    straight = align.run(context(material, tmp_path / "straight", objective=objective))
    with pytest.raises(StoppedError):
        align.run(context(material, tmp_path / "halves", objective=objective, stop=StopAfter(2)))
    again = align.run(context(material, tmp_path / "halves", objective=objective))
    assert again["steps"] == straight["steps"] > 2
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("straight", "halves")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert again["model_digest"] == straight["model_digest"]
    assert any(
        not torch.equal(load_file(material / "base" / "model.safetensors")[name], value)
        for name, value in weights[0].items()
    )


def test_a_model_that_has_not_moved_has_gained_nothing_in_low_precision_either(material, tmp_path):
    fields = {"precision": "bfloat16", "optimizer": {"learning_rate": 1e-12}, "epochs": 0.25}
    report = align.run(context(material, tmp_path / "out", **fields))
    evaluation = report["evaluation"]
    assert (evaluation["chosen_gain_nats"], evaluation["rejected_gain_nats"]) == (0.0, 0.0)


def test_low_rank_updates_are_merged_and_kept_beside_the_model(material, tmp_path):
    report = align.run(context(material, tmp_path / "out", method="lora", lora={"rank": 2}, epochs=3.0))
    assert (tmp_path / "out" / "adapter" / "adapter.safetensors").is_file()
    assert load_model(tmp_path / "out" / "model").lineage["base"] == load_model(material / "base").digest
    assert 0 < report["share"] < 1
    assert report["evaluation"]["heldout_pairs"] > 0
    assert report["rows"] + report["evaluation"]["heldout_pairs"] == 16
    assert isinstance(report["divergence_nats"], float)


def test_a_feedback_store_is_learned_from_and_leaves_its_card(material, tmp_path):
    with contextlib.closing(FeedbackStore(tmp_path / "feedback.db")) as store:
        for number in range(8):
            asked = (Message("user", f"When, number {number}?"),)
            store.add_answer(
                Answer(id=str(number), model="m", model_digest="d", messages=asked, answer="No.", finish="stop")
            )
            store.add_rating(Rating(answer_id=str(number), thumb=-1, better_answer="At nine."))
    report = align.run(context(material, tmp_path / "out", data=None, store=str(tmp_path / "feedback.db")))
    assert report["rows"] + report["evaluation"].get("heldout_pairs", 0) == 8
    assert "| pair | edit | 8 |" in (tmp_path / "out" / "data_card.md").read_text()
    assert report["dropped"]["verdicts without a pair"] > 0


def test_test_questions_are_taken_out_of_what_is_learned(material, tmp_path):
    (tmp_path / "test.jsonl").write_text(
        json.dumps({"prompt": "when? 0", "chosen": "At nine.", "rejected": "No."}) + "\n"
    )
    report = align.run(
        context(material, tmp_path / "out", test=str(tmp_path / "test.jsonl"), heldout_share=0.1, epochs=0.25)
    )
    assert report["rows"] == 15
    assert report["dropped"]["a test prompt"] == 1


def test_thumbs_on_one_question_alone_are_refused(material, tmp_path):
    rows = [{"prompt": "Which ferry?", "completion": f"Number {number}.", "label": number > 2} for number in range(6)]
    (tmp_path / "thumbs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="on one question"):
        align.run(context(material, tmp_path / "out", objective="kto", data=str(tmp_path / "thumbs.jsonl")))


def test_thumbs_alone_cannot_teach_a_loss_of_pairs(material, tmp_path):
    rows = [{"prompt": f"When? {number}", "completion": "No.", "label": False} for number in range(20)]
    (tmp_path / "thumbs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="no preference is left") as caught:
        align.run(context(material, tmp_path / "out", data=str(tmp_path / "thumbs.jsonl")))
    assert "kto" in caught.value.hint


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"objective": "dpo", "margin": 0.5}, "`margin` has no effect"),
        ({"objective": "kto", "label_smoothing": 0.1}, "`label_smoothing` has no effect"),
        ({"objective": "dpo", "rewards": [{"kind": "exact"}]}, "`rewards` has no effect"),
        ({"objective": "grpo"}, "at least one of `rewards`"),
        ({"objective": "dpo", "store": "x.db"}, "give either `data`"),
        ({"objective": "grpo", "rewards": [{"kind": "length"}]}, "`words` belongs to"),
        ({"objective": "dpo", "method": "all", "lora": {"rank": 3}}, "`lora` has no effect"),
        ({"objective": "dpo", "harvest": {"agreement": 0.9}}, "`harvest` has no effect"),
    ],
)
def test_settings_without_effect_are_refused(fields, told):
    with pytest.raises(ConfigError, match=told):
        validate(AlignConfig, {"data": "x.jsonl", **fields}, where="recipe")
