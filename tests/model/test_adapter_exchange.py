"""Adapters as files: merged, added up, taken out, and through PEFT's format and back without a number changed."""

import pytest
import torch

from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.model.adapter import Adapter, LoraConfig
from chatwright.model.adapter_exchange import describe, from_peft, merge_adapters, to_peft, unmerge_adapter
from chatwright.model.adapter_files import load_adapter
from chatwright.model.attachment import ADAPTER_WEIGHTS
from chatwright.model.bottleneck import BottleneckConfig, Bottlenecks
from chatwright.model.directory import load_model, save_model

IDS = torch.arange(3, 35).reshape(2, 16)


@pytest.fixture
def base(make_network, tiny_tokenizer, tmp_path):
    save_model(tmp_path / "base", make_network(std=0.1), tiny_tokenizer, lineage={"stage": "pretrain"})
    return tmp_path / "base"


def saved(base, name, *, kind="lora", seed=0, **fields):
    """An adapter as training would leave it, on this base."""
    loaded = load_model(base)
    if kind == "lora":
        made = Adapter(loaded.network, LoraConfig(rank=2, **fields))
    else:
        made = Bottlenecks(loaded.network, BottleneckConfig(width=8))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(seed))
    made.save(base.parent / name, base_digest=loaded.digest)
    return base.parent / name


def assert_same_scores(model, other):
    expected = scores(other)
    torch.testing.assert_close(scores(model), expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def attached(base, *adapters):
    loaded = load_model(base)
    for path in adapters:
        load_adapter(path, loaded.network, base_digest=loaded.digest).attach(loaded.network)
    with torch.inference_mode():
        return loaded.network(IDS)


def scores(model):
    with torch.inference_mode():
        return load_model(model).network(IDS)


def test_two_adapters_of_each_kind_stack_attached_as_merged(base, tmp_path):
    paths = [saved(base, "a"), saved(base, "b", seed=1), saved(base, "c", kind="bottleneck")]
    done = merge_adapters(base, paths, tmp_path / "merged")
    assert [one["name"] for one in done.facts["adapters"]] == ["a", "b", "c"]
    expected = attached(base, *paths)
    torch.testing.assert_close(scores(tmp_path / "merged"), expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_a_weight_is_how_far_the_model_goes(base, tmp_path):
    path = saved(base, "a")
    merge_adapters(base, [path], tmp_path / "none", weights=[0.0])
    assert torch.equal(scores(tmp_path / "none"), scores(base))
    half, whole = (merge_adapters(base, [path], tmp_path / str(w), weights=[w]).path for w in (0.5, 1.0))
    name = "model.layers.0.mlp.up_proj.weight"
    start, middle, end = (load_model(place).network.state_dict()[name] for place in (base, half, whole))
    torch.testing.assert_close(middle, (start + end) / 2, atol=1e-7, rtol=0)


@pytest.mark.parametrize("kind", ["lora", "bottleneck"])
def test_what_was_merged_comes_out_again(base, tmp_path, kind):
    path = saved(base, "a", kind=kind)
    merge_adapters(base, [path], tmp_path / "merged")
    unmerge_adapter(tmp_path / "merged", path, tmp_path / "again")
    expected = scores(base)
    torch.testing.assert_close(scores(tmp_path / "again"), expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_an_adapter_of_another_base_does_not_come_out(base, tmp_path, make_network, tiny_tokenizer):
    save_model(tmp_path / "other", make_network(seed=5), tiny_tokenizer, lineage={})
    merge_adapters(base, [saved(base, "a")], tmp_path / "merged")
    with pytest.raises(RefusedError, match="another base"):
        unmerge_adapter(tmp_path / "merged", saved(tmp_path / "other", "foreign"), tmp_path / "again")
    with pytest.raises(RefusedError, match="does not say which base"):
        unmerge_adapter(base, tmp_path / "a", tmp_path / "again")


@pytest.mark.parametrize("kind", ["lora", "bottleneck"])
def test_what_was_merged_in_part_comes_out_in_part(base, tmp_path, kind):
    path = saved(base, "a", kind=kind)
    merge_adapters(base, [path], tmp_path / "merged", weights=[0.5])
    unmerge_adapter(tmp_path / "merged", path, tmp_path / "again")
    assert_same_scores(tmp_path / "again", base)


def test_what_is_not_merged_or_no_longer_does_not_come_out(base, tmp_path):
    first, second, third = (saved(base, name, seed=seed) for seed, name in enumerate("abc"))
    merge_adapters(base, [first, second], tmp_path / "merged", weights=[0.5, 2.0])
    with pytest.raises(RefusedError, match="`.*c` is not among the adapters merged into `.*merged`"):
        unmerge_adapter(tmp_path / "merged", third, tmp_path / "x")
    unmerge_adapter(tmp_path / "merged", first, tmp_path / "once")
    with pytest.raises(RefusedError, match="is not among the adapters"):
        unmerge_adapter(tmp_path / "once", first, tmp_path / "x")
    unmerge_adapter(tmp_path / "once", second, tmp_path / "twice")
    assert_same_scores(tmp_path / "twice", base)
    with pytest.raises(RefusedError, match="is not among the adapters"):
        unmerge_adapter(tmp_path / "twice", second, tmp_path / "x")


def test_an_adapter_comes_out_of_a_fine_tune_s_own_model_once(base, tmp_path):
    path, loaded = saved(base, "a"), load_model(base)
    load_adapter(path, loaded.network, base_digest=loaded.digest).merge(loaded.network)
    lineage = {"stage": "finetune", "base": loaded.digest}
    save_model(tmp_path / "tuned", loaded.network, loaded.tokenizer, lineage=lineage)
    unmerge_adapter(tmp_path / "tuned", path, tmp_path / "again")
    assert_same_scores(tmp_path / "again", base)
    with pytest.raises(RefusedError, match="is not among the adapters"):
        unmerge_adapter(tmp_path / "again", path, tmp_path / "x")


def test_bottlenecks_come_out_in_the_order_opposite_to_the_merge(base, tmp_path):
    first, second = saved(base, "a", kind="bottleneck"), saved(base, "b", kind="bottleneck", seed=1)
    low_rank = saved(base, "c", targets=("q_proj",))
    merge_adapters(base, [first, second, low_rank], tmp_path / "merged")
    with pytest.raises(RefusedError, match="`b` was merged after") as caught:
        unmerge_adapter(tmp_path / "merged", first, tmp_path / "x")
    assert "take `b` out first" in (caught.value.hint or "")
    unmerge_adapter(tmp_path / "merged", second, tmp_path / "once")
    unmerge_adapter(tmp_path / "once", first, tmp_path / "twice")
    unmerge_adapter(tmp_path / "twice", low_rank, tmp_path / "again")
    assert_same_scores(tmp_path / "again", base)


def test_a_lineage_that_says_senseless_things_of_its_adapters_is_refused(base, tmp_path):
    path, loaded = saved(base, "a"), load_model(base)
    digest = merge_adapters(base, [path], tmp_path / "merged").facts["adapters"][0]["digest"]
    for number, told in enumerate(("a", [1], [{"digest": digest}], [{"digest": digest, "weight": "one"}])):
        model = tmp_path / str(number)
        lineage = {"base": loaded.digest, "adapters": told}
        save_model(model, loaded.network, loaded.tokenizer, lineage=lineage)
        with pytest.raises(RefusedError, match="makes no sense"):
            unmerge_adapter(model, path, tmp_path / "x")


def test_through_pefts_format_and_back_no_number_changes(base, tmp_path):
    path = saved(base, "a", targets=("q_proj", "down_proj"), rank_stabilised=True)
    to_peft(base, path, tmp_path / "peft")
    from_peft(base, tmp_path / "peft", tmp_path / "back")
    assert torch.equal(attached(base, path), attached(base, tmp_path / "back"))
    merge_adapters(base, [tmp_path / "peft"], tmp_path / "theirs")
    merge_adapters(base, [path], tmp_path / "ours")
    assert torch.equal(scores(tmp_path / "theirs"), scores(tmp_path / "ours"))


def test_what_makes_no_sense_is_refused(base, tmp_path):
    first, dora = saved(base, "a"), saved(base, "d", magnitudes=True)
    with pytest.raises(UsageError, match="depends on their order"):
        merge_adapters(base, [first, dora], tmp_path / "x")
    with pytest.raises(UsageError, match="one `--weight` for each"):
        merge_adapters(base, [first], tmp_path / "x", weights=[1.0, 2.0])
    with pytest.raises(UsageError, match="is there already"):
        merge_adapters(base, [first], base)
    with pytest.raises(UsageError, match="PEFT has no adapters of the kind `bottleneck`"):
        to_peft(base, saved(base, "b", kind="bottleneck"), tmp_path / "x")
    with pytest.raises(RefusedError, match="holds no adapter"):
        merge_adapters(base, [base], tmp_path / "x")


def test_what_an_adapter_is_can_be_asked(base):
    path = saved(base, "a")
    facts = describe(path)
    loaded = load_model(base)
    assert (facts["kind"], facts["base"]) == ("lora", loaded.digest)
    assert facts["trained"] == Adapter(loaded.network, LoraConfig(rank=2)).num_parameters()
    assert facts["bytes"] > (path / ADAPTER_WEIGHTS).stat().st_size
