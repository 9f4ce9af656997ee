"""Our low-rank updates are PEFT's: same forward, gradients and merged weights, and files that go both ways."""

import json

import pytest
import torch

from chatwright.foundation import config as configuration
from chatwright.foundation.errors import ConfigError, RefusedError, UsageError
from chatwright.model.adapter import ALL_LINEAR, Adapter, LoraConfig
from chatwright.model.directory import load_model
from chatwright.model.peft_format import PEFT_CONFIG, PEFT_WEIGHTS, load_peft, save_peft

peft = pytest.importorskip("peft")

IDS = torch.arange(3, 35).reshape(2, 16)
SAME = {"atol": 1e-5, "rtol": 1e-5}
KINDS = {
    "LoRA": {"r": 4, "lora_alpha": 10, "target_modules": list(ALL_LINEAR)},
    "attention alone": {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]},
    "high rank, rank-stabilised": {"r": 24, "lora_alpha": 8, "use_rslora": True, "target_modules": list(ALL_LINEAR)},
    "DoRA": {"r": 4, "lora_alpha": 8, "use_dora": True, "target_modules": list(ALL_LINEAR)},
    "by a pattern": {"r": 2, "lora_alpha": 4, "target_modules": r".*layers\.1\..*(up|down)_proj"},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def theirs(saved_once, tmp_path):
    """A PEFT model of a kind with every number away from its beginning, and its saved adapter."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()

    def make(kind, **shape):
        base = AutoModelForCausalLM.from_pretrained(saved_once(**shape), dtype=torch.float32)
        model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **KINDS[kind])).eval()
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for part in model.parameters():
                if part.requires_grad:
                    part.add_(torch.randn(part.shape, generator=generator), alpha=0.05)
        model.save_pretrained(tmp_path / "theirs")
        return model, load_model(saved_once(**shape)), tmp_path / "theirs"

    return make


def loss_of(logits):
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())


@every_kind
def test_forward_gradients_and_merged_weights_are_pefts(theirs, saved_once, kind):
    model, loaded, directory = theirs(kind)
    network = loaded.network.requires_grad_(False)
    adapter = load_peft(directory, network)
    adapter.attach(network)
    expected = model(IDS).logits
    logits = network(IDS)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    loss_of(expected).backward()
    loss_of(logits).backward()
    told = {name.replace(".default", ""): part.grad for name, part in model.named_parameters() if part.grad is not None}
    compared = 0
    for name, update in adapter.named_updates():
        for ours, place in (
            (update.down, "lora_A.weight"),
            (update.up, "lora_B.weight"),
            (update.magnitude, "lora_magnitude_vector.weight"),
        ):
            key = f"base_model.model.{name}.{place}"
            if ours is not None and key in told:
                torch.testing.assert_close(ours.grad, told[key], **SAME)
                compared += 1
    assert compared == len(told)
    fresh = load_model(saved_once())
    load_peft(directory, fresh.network).merge(fresh.network)
    merged = dict(model.merge_and_unload().named_parameters())
    for name, part in fresh.network.named_parameters():
        torch.testing.assert_close(part, merged[name], **SAME)


@pytest.mark.parametrize(
    "fields", [{}, {"rank_stabilised": True, "rank": 8}, {"magnitudes": True}, {"targets": ("embed_tokens", "o_proj")}]
)
def test_what_we_write_opens_in_peft(saved_once, make_network, tmp_path, fields):
    from transformers import AutoModelForCausalLM

    place = saved_once(tied=False)
    loaded = load_model(place)
    adapter = Adapter(loaded.network, LoraConfig(**{"rank": 4, "alpha": 6.0, **fields}))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in adapter.parameters():
            part.add_(torch.randn(part.shape, generator=generator), alpha=0.05)
    save_peft(tmp_path / "ours", adapter, loaded.network, base="base", base_digest=loaded.digest)
    base = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    adapter.attach(loaded.network)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.network(IDS), model(IDS).logits, atol=1e-4, rtol=0)
    again = load_peft(tmp_path / "ours", load_model(place).network, base_digest=loaded.digest)
    assert all(torch.equal(part, again.state_dict()[name]) for name, part in adapter.state_dict().items())
    with pytest.raises(RefusedError, match="another base"):
        load_peft(tmp_path / "ours", load_model(place).network, base_digest="0" * 64)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"r": 5}, "expected"),
        ({"r": "many"}, "makes no sense"),
        ({"lora_alpha": -1}, "makes no sense"),
        ({"use_dora": True, "lora_dropout": 0.1}, "`dropout` does not go with"),
    ],
)
def test_an_adapter_that_is_not_computed_here_is_refused_by_name(theirs, changes, said):
    _, loaded, directory = theirs("LoRA")
    path = directory / PEFT_CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(RefusedError, match=said):
        load_peft(directory, loaded.network)


REWRITING_THE_BASE = ("pissa", "pissa_niter_16", "olora", "loftq", "lora_ga", "corda", "what comes next")
MORE_OPTIONS = ("kasa_config", "arrow_config", "monteclora_config", "velora_config")


def test_a_beginning_that_rewrites_the_base_is_refused_and_the_others_load(theirs):
    _, loaded, directory = theirs("LoRA")
    path = directory / PEFT_CONFIG
    told = json.loads(path.read_text())
    for beginning in REWRITING_THE_BASE:
        path.write_text(json.dumps({**told, "init_lora_weights": beginning}))
        with pytest.raises(RefusedError, match=f"init_lora_weights = '{beginning}'"):
            load_peft(directory, loaded.network)
    for beginning in (True, False, None, "gaussian", "eva", "orthogonal"):
        path.write_text(json.dumps({**told, "init_lora_weights": beginning}))
        load_peft(directory, loaded.network)


def test_later_kinds_of_peft_are_refused_by_name_and_their_absence_is_not(theirs):
    _, loaded, directory = theirs("LoRA")
    path = directory / PEFT_CONFIG
    told = json.loads(path.read_text())
    for changes in (*({key: {"rank": 2}} for key in MORE_OPTIONS), {"use_bdlora": True}, {"use_bdlora": {"n": 2}}):
        path.write_text(json.dumps({**told, **changes}))
        with pytest.raises(RefusedError, match=next(iter(changes))):
            load_peft(directory, loaded.network)
    path.write_text(json.dumps({**told, **dict.fromkeys(MORE_OPTIONS), "use_bdlora": False}))
    load_peft(directory, loaded.network)


def test_an_embedding_adapter_is_refused_on_a_tied_base(make_network, tmp_path):
    network = make_network(tied=False)
    adapter = Adapter(network, LoraConfig(rank=2, targets=("embed_tokens", "q_proj")))
    save_peft(tmp_path / "ours", adapter, network, base="base", base_digest="d")
    load_peft(tmp_path / "ours", network)
    with pytest.raises(RefusedError, match="PEFT adapts the input side alone"):
        load_peft(tmp_path / "ours", make_network(tied=True))


def test_a_damaged_or_missing_file_is_refused(theirs):
    _, loaded, directory = theirs("LoRA")
    sound = (directory / PEFT_WEIGHTS).read_bytes()
    for damaged in (b"", sound[:-3], b"\x80\x04" + sound):
        (directory / PEFT_WEIGHTS).write_bytes(damaged)
        with pytest.raises(RefusedError):
            load_peft(directory, loaded.network)
    (directory / PEFT_WEIGHTS).unlink()
    with pytest.raises(RefusedError, match="only safetensors|has no"):
        load_peft(directory, loaded.network)


def test_what_peft_cannot_express_is_refused_with_the_way_out(make_network, tmp_path):
    for network, config, tokens, said in (
        (make_network(), LoraConfig(targets=("embed_tokens", "q_proj")), (), "the output projection too"),
        (make_network(), LoraConfig(), (1,), "single tokens"),
        (make_network(family="gpt2", key_heads=4), LoraConfig(targets=("q_proj",)), (), "are one layer"),
    ):
        with pytest.raises(UsageError, match=said) as caught:
            save_peft(
                tmp_path / "x", Adapter(network, config, trained_tokens=tokens), network, base="b", base_digest="d"
            )
        assert "merge it" in (caught.value.hint or "")


def test_settings_without_meaning_for_dora_are_refused():
    with pytest.raises(ConfigError, match="does not go with `magnitudes`"):
        configuration.validate(LoraConfig, {"magnitudes": True, "dropout": 0.1}, where="lora")
    with pytest.raises(ConfigError, match="leave `embed_tokens` out"):
        configuration.validate(LoraConfig, {"magnitudes": True, "targets": ["embed_tokens"]}, where="lora")
