"""Fine-tuning whole: what it changes and what it must not, gain and forgetting, and settings that keep their defaults."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from token_folder import write_tokens

from chatwright.feedback.conversations import read_conversations
from chatwright.foundation import storage
from chatwright.foundation.config import validate
from chatwright.foundation.errors import ConfigError, RefusedError, StoppedError, UsageError
from chatwright.foundation.stage import StageContext
from chatwright.foundation.stopping import StopFlag
from chatwright.model.adapter_exchange import unmerge_adapter
from chatwright.model.adapter_files import load_adapter
from chatwright.model.directory import load_model, save_model
from chatwright.tokens.shards import TokenData
from chatwright.tokens.tokenizer import TURN_END, TURN_START
from chatwright.train.heldout import by_domain, document_losses
from chatwright.tune import finetune
from chatwright.tune.finetune_settings import FinetuneConfig

ANSWERS = {"ferry": "It leaves at nine.", "ticket": "Tickets are sold on board.", "hours": "We open at ten."}


def write_conversations(path, *, wordings):
    lines = [
        json.dumps({"question": f"{wording} {topic}?", "answer": answer, "label": topic})
        for wording in wordings
        for topic, answer in ANSWERS.items()
    ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def material(tmp_path_factory, make_network, tiny_tokenizer):
    """A base model as pretraining leaves it, its tokens, and conversations."""
    folder = tmp_path_factory.mktemp("material")
    save_model(folder / "base", make_network(), tiny_tokenizer, lineage={"stage": "pretrain"})
    write_tokens(folder / "tokens", tiny_tokenizer)
    write_conversations(folder / "train.jsonl", wordings=("Tell me about the", "What of the", "Please, the"))
    write_conversations(folder / "test.jsonl", wordings=("And the",))
    return folder


def context(material, output, *, stop=None, with_tokens=True, **fields):
    output.mkdir(exist_ok=True)
    settings = {
        "epochs": 4,
        "batch_rows": 4,
        "micro_tokens": 128,
        "device": "cpu",
        "precision": "float32",
        "threads": 1,
    }
    settings |= {"test": str(material / "test.jsonl"), "checkpoint_every": 3, "lora": {"rank": 4}} | fields
    if settings.get("method", "lora") != "lora":
        del settings["lora"]
    config = validate(FinetuneConfig, {"data": str(material / "train.jsonl"), **settings}, where="recipe")
    inputs = {"base": material / "base"} | ({"tokens": material / "tokens"} if with_tokens else {})
    return StageContext(config=config, inputs=inputs, output=output, seed=3, stop=stop or StopFlag())


@pytest.fixture(scope="module")
def tuned(material, tmp_path_factory):
    """A fine-tune with the defaults: its directory and its report."""
    output = tmp_path_factory.mktemp("runs") / "finetune"
    return output, finetune.run(context(material, output))


def weights(directory):
    return load_file(directory / "model.safetensors")


def test_it_leaves_an_adapter_a_merged_model_a_log_and_a_report(tuned):
    output, report = tuned
    names = {path.name for path in output.iterdir() if not path.name.startswith(".")}
    assert {"adapter", "model", "metrics.jsonl", "report.json"} <= names
    assert json.loads((output / "report.json").read_text())["model_digest"] == report["model_digest"]
    assert report["steps"] == 9  # four passes over nine conversations, four a step
    assert 0 < report["share"] < 1
    assert report["trained"] == round(report["share"] * report["total"])


def test_the_base_keeps_its_bits(material, tuned, make_network, tiny_tokenizer, tmp_path):
    output, _ = tuned
    save_model(tmp_path / "base", make_network(), tiny_tokenizer, lineage={"stage": "pretrain"})
    digests = [storage.digest_file(place / "base" / "model.safetensors") for place in (material, tmp_path)]
    assert digests[0] == digests[1]


def test_the_last_layer_alone_changes_where_the_recipe_says_so(material, tmp_path):
    report = finetune.run(context(material, tmp_path / "last", method="last-1"))
    before, after = weights(material / "base"), weights(tmp_path / "last" / "model")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(("model.layers.1.", "model.norm."))}
    assert report["method"] == "last-1"
    assert report["trained"] == sum(before[name].numel() for name in changed)


def test_dora_and_rank_stabilised_updates_are_learned_and_merged(material, tmp_path):
    lora = {"rank": 4, "magnitudes": True, "rank_stabilised": True}
    report = finetune.run(context(material, tmp_path / "dora", lora=lora))
    before, after = weights(material / "base"), weights(tmp_path / "dora" / "model")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed >= {name for name in before if "_proj" in name}
    assert report["after"]["test_bits_per_byte"] < report["before"]["test_bits_per_byte"]


def test_lora_changes_the_layers_it_names_and_the_rows_of_the_turn_markers_alone(material, tuned, tiny_tokenizer):
    before, after = weights(material / "base"), weights(tuned[0] / "model")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name} | {"model.embed_tokens.weight"}
    rows = (before["model.embed_tokens.weight"] != after["model.embed_tokens.weight"]).any(dim=1)
    assert rows.nonzero().flatten().tolist() == sorted(tiny_tokenizer.special(name) for name in (TURN_START, TURN_END))


def test_targets_limit_what_lora_changes(material, tmp_path):
    finetune.run(context(material, tmp_path / "finetune", epochs=0.4, lora={"rank": 2, "targets": ["q_proj"]}))
    before, after = weights(material / "base"), weights(tmp_path / "finetune" / "model")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "q_proj" in name} | {"model.embed_tokens.weight"}


def test_the_merged_model_scores_as_the_base_with_its_adapter_attached(material, tuned):
    base = load_model(material / "base")
    adapter = load_adapter(tuned[0] / "adapter", base.network, base_digest=base.digest)
    adapter.eval().attach(base.network)
    merged = load_model(tuned[0] / "model").network
    ids = torch.tensor([base.tokenizer.encode("When does the ferry leave? At nine.")])
    with torch.inference_mode():
        attached, own = base.network.eval()(ids), merged.eval()(ids)
    assert float((attached - own).abs().max()) < 1e-5 * max(1.0, float(own.abs().max()))


def test_only_its_own_adapter_comes_out_of_a_fine_tuned_model(material, tuned, tmp_path):
    finetune.run(context(material, tmp_path / "other", epochs=0.4))
    with pytest.raises(RefusedError, match="is not among the adapters merged"):
        unmerge_adapter(tuned[0] / "model", tmp_path / "other" / "adapter", tmp_path / "x")
    unmerge_adapter(tuned[0] / "model", tuned[0] / "adapter", tmp_path / "again")
    before, after = weights(material / "base"), weights(tmp_path / "again")
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in before)


def test_it_reports_the_gain_on_the_test_answers(tuned):
    report = tuned[1]
    assert report["after"]["test_bits_per_byte"] < report["before"]["test_bits_per_byte"]


def test_forgetting_is_the_rise_of_bits_per_byte_on_the_base_s_held_out_documents(material, tuned, tiny_tokenizer):
    report = tuned[1]
    documents = list(TokenData(material / "tokens").split("heldout").documents())
    measured = []
    for directory in (material / "base", tuned[0] / "model"):
        network = load_model(directory).network.eval()
        losses = document_losses(network, documents, begin=tiny_tokenizer.begin_of_text, stride=64)
        measured.append(by_domain(losses))
    for domain in ("all", "shop", "sea"):
        rise = measured[1][domain]["bits_per_byte"] - measured[0][domain]["bits_per_byte"]
        assert report["forgetting"][domain] == pytest.approx(rise, abs=2e-4)


def test_the_measurement_before_is_taken_once_and_kept_over_a_stop(material, tmp_path):
    stop = StopFlag()
    stop.requested = True
    with pytest.raises(StoppedError):
        finetune.run(context(material, tmp_path / "finetune", stop=stop))
    taken = (tmp_path / "finetune" / "before.json").stat().st_mtime_ns
    finetune.run(context(material, tmp_path / "finetune"))
    assert (tmp_path / "finetune" / "before.json").stat().st_mtime_ns == taken


def test_a_fine_tune_that_was_stopped_gives_the_bits_of_an_unbroken_one(material, tuned, tmp_path):
    stop = StopFlag()
    stop.requested = True
    with pytest.raises(StoppedError, match="stopped"):
        finetune.run(context(material, tmp_path / "finetune", stop=stop))
    report = finetune.run(context(material, tmp_path / "finetune"))
    assert report["model_digest"] != ""
    for part in ("adapter/adapter.safetensors", "model/model.safetensors"):
        assert storage.digest_file(tmp_path / "finetune" / part) == storage.digest_file(tuned[0] / part)


def test_without_documents_there_is_neither_replay_nor_forgetting(material, tmp_path):
    report = finetune.run(context(material, tmp_path / "finetune", with_tokens=False, epochs=0.4))
    assert report["forgetting"] == {}
    assert "heldout" not in report["before"]


def test_replay_keeps_more_of_the_base_than_none(material, tmp_path):
    fields = {"epochs": 12, "optimizer": {"learning_rate": 2e-2}}
    without = finetune.run(context(material, tmp_path / "without", replay_share=0.0, **fields))
    beside = finetune.run(context(material, tmp_path / "beside", replay_share=0.5, replay_length=16, **fields))
    assert beside["forgetting"]["all"] < without["forgetting"]["all"]


def test_with_method_all_every_parameter_is_trained_and_no_adapter_left(material, tmp_path):
    report = finetune.run(context(material, tmp_path / "finetune", method="all", epochs=0.4))
    assert report["share"] == 1.0
    assert not (tmp_path / "finetune" / "adapter").exists()
    before, after = weights(material / "base"), weights(tmp_path / "finetune" / "model")
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_turns_left_out_for_want_of_context_are_counted_aloud_and_memory_and_files_are_told(material, tmp_path, capsys):
    turns = [{"role": role, "content": "a word of it " * 2} for _ in range(4) for role in ("user", "assistant")]
    data = tmp_path / "long.jsonl"
    data.write_text(json.dumps({"messages": turns}) + "\n")
    finetune.run(context(material, tmp_path / "finetune", data=str(data), epochs=1.0, replay_share=0.0))
    said = capsys.readouterr().err
    assert "1 of them exceed the context: their oldest" in said
    assert re.search(r"memory, about: \d+\.\d GB \(\d+\.\d\d of frozen weights, ", said)
    assert re.search(r"files: model \d+\.\d MB, ", said)


def test_a_recipe_that_sets_one_key_keeps_the_other_defaults_of_a_fine_tune():
    config = validate(
        FinetuneConfig,
        {"data": "x", "optimizer": {"learning_rate": 1e-3}, "schedule": {"warmup_share": 0.01}},
        where="r",
    )
    assert (config.optimizer.kind, config.optimizer.weight_decay) == ("adamw", 0.0)
    assert config.schedule.cooldown_share == 0.95


def test_settings_without_effect_are_refused_together():
    with pytest.raises(ConfigError, match="`lora` has no effect"):
        validate(FinetuneConfig, {"data": "x", "method": "all", "lora": {"rank": 4}}, where="r")
    with pytest.raises(ConfigError, match="adapters are AdamW's"):
        validate(FinetuneConfig, {"data": "x", "optimizer": {"kind": "muon"}}, where="r")


def test_the_loss_falls_while_it_learns(material, tmp_path):
    finetune.run(context(material, tmp_path / "finetune", epochs=8, replay_share=0.0, log_every=1))
    lines = storage.read_lines(tmp_path / "finetune" / "metrics.jsonl")
    losses = [line["loss"] for line in lines if line["event"] == "step"]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_bottleneck_adapters_leave_a_plain_model_with_a_wider_mlp(material, tmp_path):
    report = finetune.run(context(material, tmp_path / "a", method="adapters", adapters={"width": 8}))
    before, after = weights(material / "base"), weights(tmp_path / "a" / "model")
    name = "model.layers.0.mlp.up_proj.weight"
    assert after[name].shape[0] == before[name].shape[0] + 8
    assert torch.equal(after[name][:-8], before[name])
    assert report["after"]["test_bits_per_byte"] < report["before"]["test_bits_per_byte"]
    assert report["file_bytes"]["adapter"] < report["file_bytes"]["model"]


@pytest.mark.parametrize("numbers", ["int8", "nf4"])
def test_a_base_in_few_bits_learns_and_leaves_the_model_that_was_trained(material, tmp_path, numbers):
    report = finetune.run(context(material, tmp_path / "q", base_numbers=numbers))
    assert report["after"]["test_bits_per_byte"] < report["before"]["test_bits_per_byte"]
    last = [line for line in storage.read_lines(tmp_path / "q" / "metrics.jsonl") if line["event"] == "evaluation"][-1]
    assert report["after"]["test_bits_per_byte"] == pytest.approx(last["test_bits_per_byte"], abs=2e-4)


def test_it_ends_early_and_keeps_the_best_by_both_sides(material, tmp_path):
    fields = {
        "epochs": 200,
        "evaluate_every": 4,
        "validation_share": 0.3,
        "keeping": {"patience": 2},
        "optimizer": {"learning_rate": 3e-2},
    }
    report = finetune.run(context(material, tmp_path / "early", **fields))
    lines = [line for line in storage.read_lines(tmp_path / "early" / "metrics.jsonl") if line["event"] == "evaluation"]
    scores = [line["score"] for line in lines]
    assert report["kept"]["step"] == lines[scores.index(min(scores))]["step"]
    assert len(scores) == scores.index(min(scores)) + 1 + 2
    assert report["steps"] == lines[-1]["step"] < 300
    lost = max(0.0, report["forgetting"]["all"])
    assert report["after"]["validation_bits_per_byte"] + lost == pytest.approx(min(scores), abs=2e-4)


def test_one_that_was_stopped_ends_early_at_the_same_step_with_the_same_bits(material, tmp_path):
    fields = {
        "epochs": 200,
        "evaluate_every": 4,
        "validation_share": 0.3,
        "keeping": {"patience": 2},
        "optimizer": {"learning_rate": 3e-2},
    }
    straight = finetune.run(context(material, tmp_path / "straight", **fields))
    for _ in range(3):
        stop = StopFlag()
        stop.requested = True
        with pytest.raises(StoppedError):
            finetune.run(context(material, tmp_path / "halting", stop=stop, **fields))
    resumed = finetune.run(context(material, tmp_path / "halting", **fields))
    assert (resumed["steps"], resumed["kept"]) == (straight["steps"], straight["kept"])
    assert resumed["model_digest"] == straight["model_digest"]


def test_the_mean_of_the_last_measured_weights_is_kept(material, tmp_path):
    fields = {"epochs": 8, "evaluate_every": 2, "keeping": {"average_share": 0.5}}
    report = finetune.run(context(material, tmp_path / "mean", **fields))
    assert report["kept"] == {"which": "mean", "steps": [10, 12, 14, 16, 18]}
    last = load_file(max((tmp_path / "mean" / "checkpoints").glob("step-*")) / "weights.safetensors")
    mean = load_file(tmp_path / "mean" / "adapter" / "adapter.safetensors")
    assert any(not torch.equal(last[name], part) for name, part in mean.items())


def test_the_curve_from_the_base_to_the_result_is_measured_and_its_best_point_kept(material, tmp_path):
    fields = {
        "epochs": 30,
        "validation_share": 0.3,
        "keeping": {"interpolate": [0.0, 0.25, 0.5]},
        "optimizer": {"learning_rate": 2e-2},
        "replay_share": 0.0,
    }
    for method in ("lora", "all"):
        report = finetune.run(context(material, tmp_path / method, method=method, **fields))
        points = report["interpolation"]["points"]
        assert [point["share"] for point in points] == [0.0, 0.25, 0.5, 1.0]
        assert points[0]["figures"] == report["before"]
        chosen = min(points, key=lambda point: point["score"])
        assert report["interpolation"]["chosen"] == chosen["share"]
        assert report["after"]["heldout"]["all"]["bits_per_byte"] == pytest.approx(
            chosen["figures"]["heldout"]["all"]["bits_per_byte"], abs=2e-4
        )


@pytest.mark.parametrize(("count", "questions", "held"), [(200, 40, 8), (12, 12, 2), (3, 2, 1)])
def test_the_same_question_is_never_learned_and_held_back(tmp_path, count, questions, held):
    lines = [{"question": f"Question {number % questions}?", "answer": f"Answer {number}."} for number in range(count)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    sides = finetune.hold_back(read_conversations(tmp_path / "data.jsonl"), 0.2)
    asked = [{item.messages[0].content for item in side} for side in sides]
    assert not asked[0] & asked[1]
    assert len(asked[1]) == held
    assert sum(map(len, sides)) == count


def test_nothing_can_be_held_back_of_one_question(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"question": "Why?", "answer": "So."}\n' * 3)
    with pytest.raises(UsageError, match="ask one question alone"):
        finetune.hold_back(read_conversations(tmp_path / "data.jsonl"), 0.2)


def test_what_cannot_be_chosen_or_has_no_effect_is_refused():
    for fields, said in (
        ({"keeping": {"patience": 2}}, "set `validation_share`"),
        ({"keeping": {"patience": 2, "average_share": 0.5}}, "set one of them"),
        ({"keeping": {"average_share": 0.5}}, "averages at measurements"),
        ({"base_numbers": "int8", "method": "all"}, "is for a frozen base"),
        ({"adapters": {"width": 4}}, "`adapters` has no effect"),
    ):
        with pytest.raises(ConfigError, match=said):
            validate(FinetuneConfig, {"data": "x", **fields}, where="r")
