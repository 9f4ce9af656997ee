"""Our losses and their gradients equal TRL's, computed by its own trainers on the same weights and the same batch.

Needs TRL 1.x (`pip install trl`, with accelerate and datasets). It is no dependency: without it these are skipped.
Where TRL's choice differs from ours, the test says so and compares what is common.
"""

import pytest
import torch
from torch.nn import functional as F

from chatwright.model.directory import load_model, save_model
from chatwright.train.batches import IGNORED
from chatwright.tune.distill.losses import generalised_jsd
from chatwright.tune.preferences import losses
from chatwright.tune.preferences.scoring import answer_scores, token_logprobs

pytest.importorskip("trl", reason="TRL is not installed: `pip install trl`")
datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LENGTH, PROMPT, ROWS = 11, 4, 3
TOLERANCE = 2e-5  # float32, two implementations of the same network
PAIRS = {"prompt": ["When?", "Where?"], "chosen": ["At nine.", "Here."], "rejected": ["No.", "There."]}


@pytest.fixture(scope="module")
def material(tmp_path_factory, make_network, tiny_tokenizer):
    """The same weights as our network and as transformers' model, with a reference that differs from them."""
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("policy", 1), ("reference", 2)):
        save_model(folder / name, make_network(seed=seed, std=0.15), tiny_tokenizer, lineage={"stage": "pretrain"})
    return folder


def ours(material, name):
    return load_model(material / name).network


def theirs(material, name):
    return transformers.AutoModelForCausalLM.from_pretrained(material / name, dtype=torch.float32)


def settings(kind, folder, **fields):
    common = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": [],
        "bf16": False,
        "per_device_train_batch_size": 2,
    }
    return kind(**common, **fields)


def new_trainer(kind, config, material, data, **fields):
    tokenizer = transformers.AutoTokenizer.from_pretrained(material / "policy")
    return kind(
        model=theirs(material, "policy"),
        args=config,
        train_dataset=datasets.Dataset.from_dict(data),
        processing_class=tokenizer,
        **fields,
    )


def rows(material, count, *, seed=0):
    """Drawn ids of two lengths, padded at the right, with the mask of the answers."""
    size = ours(material, "policy").config.vocabulary_size
    ids = torch.randint(10, size, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
    attention = torch.ones_like(ids)
    attention[::2, LENGTH - 2 :] = 0
    completion = attention.clone()
    completion[:, :PROMPT] = 0
    return ids * attention, attention, completion


def inputs_of(ids, completion):
    """The same rows as our micro-batches hold them."""
    return ids[:, :-1], ids[:, 1:].masked_fill(completion[:, 1:] == 0, IGNORED)


def scores(network, ids, completion):
    return answer_scores(network, *inputs_of(ids, completion))


def gradients(module):
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


def assert_equal(value, network, reference_value, model):
    """Losses and the gradients of every weight, which carry the same names on both sides."""
    assert value.item() == pytest.approx(reference_value.item(), rel=TOLERANCE)
    network.zero_grad()
    model.zero_grad()
    value.backward()
    reference_value.backward()
    mine, wanted = gradients(network), gradients(model)
    assert mine.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert float((mine[name] - gradient).norm()) <= 20 * TOLERANCE * float(gradient.norm()) + 1e-7, name


DPO_CASES = {
    "sigmoid": (
        {"beta": 0.3},
        lambda chosen, rejected, _: losses.dpo(chosen.sums, rejected.sums, beta=0.3),
    ),
    "ipo": ({"beta": 0.2}, lambda chosen, rejected, _: losses.ipo(chosen.means, rejected.means, beta=0.2)),
}


class Ratios:
    """Sum and mean log-ratios of policy to reference for half of a batch."""

    def __init__(self, policy, reference, part):
        self.sums = (policy.sums_B - reference.sums_B)[part]
        self.means = (policy.means_B - reference.means_B)[part]


@pytest.mark.parametrize("kind", DPO_CASES)
def test_dpo_and_ipo_equal_trls(material, tmp_path, kind):
    from trl import DPOConfig, DPOTrainer

    fields, loss = DPO_CASES[kind]
    config = settings(DPOConfig, tmp_path, loss_type=[kind], **fields)
    trainer = new_trainer(DPOTrainer, config, material, PAIRS, ref_model=theirs(material, "reference"))
    trainer.model.eval()
    ids, attention, completion = rows(material, 2 * ROWS)
    batch = {"input_ids": ids, "attention_mask": attention, "completion_mask": completion}
    expected = trainer._compute_loss(trainer.model, batch, return_outputs=False)
    network = ours(material, "policy")
    with torch.no_grad():
        reference = scores(ours(material, "reference"), ids, completion)
    policy = scores(network, ids, completion)
    chosen, rejected = (Ratios(policy, reference, part) for part in (slice(0, ROWS), slice(ROWS, None)))
    assert_equal(loss(chosen, rejected, policy).mean(), network, expected, trainer.model)


def test_kto_equals_trls(material, tmp_path):
    from trl import KTOConfig, KTOTrainer

    data = {"prompt": ["When?", "Where?"], "completion": ["At nine.", "Here."], "label": [True, False]}
    config = settings(KTOConfig, tmp_path, beta=0.4, desirable_weight=1.3, undesirable_weight=0.7)
    trainer = new_trainer(KTOTrainer, config, material, data, ref_model=theirs(material, "reference"))
    trainer.model.eval()
    ids, attention, completion = rows(material, 4)
    other, other_attention, other_completion = rows(material, 4, seed=5)
    label = torch.tensor([True, False, True, False])
    batch = {"input_ids": ids, "attention_mask": attention, "completion_mask": completion, "label": label}
    batch |= {"KL_input_ids": other, "KL_attention_mask": other_attention, "KL_completion_mask": other_completion}
    expected = trainer._compute_loss(trainer.model, batch, return_outputs=False)
    network, reference = ours(material, "policy"), ours(material, "reference")
    with torch.no_grad():
        away = scores(network, other, other_completion).sums_B - scores(reference, other, other_completion).sums_B
        fixed = scores(reference, ids, completion).sums_B
    ratio = scores(network, ids, completion).sums_B - fixed
    baseline = losses.kto_baseline(away)
    value = losses.kto(ratio, label, baseline=baseline, beta=0.4, good_weight=1.3, bad_weight=0.7)
    assert_equal(value.mean(), network, expected, trainer.model)


def labelled(ids, attention, completion):
    """A batch as TRL's older trainers want it."""
    batch = {}
    for name, part in (("chosen", slice(0, ROWS)), ("rejected", slice(ROWS, None))):
        batch[f"{name}_input_ids"], batch[f"{name}_attention_mask"] = ids[part], attention[part]
        batch[f"{name}_labels"] = ids[part].masked_fill(completion[part] == 0, IGNORED)
    return batch


def test_orpo_equals_trls_with_its_supervised_part_over_prompt_and_answer(material, tmp_path):
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    trainer = new_trainer(ORPOTrainer, settings(ORPOConfig, tmp_path, beta=0.5), material, PAIRS)
    trainer.model.eval()
    ids, attention, completion = rows(material, 2 * ROWS)
    expected, _ = trainer.get_batch_loss_metrics(trainer.model, labelled(ids, attention, completion))
    network = ours(material, "policy")
    means = scores(network, ids, completion).means_B
    # TRL's supervised part is one mean over all tokens of the preferred rows; ours is the answer's mean, as the paper's.
    inputs, targets = inputs_of(ids[:ROWS], attention[:ROWS])
    nats = F.cross_entropy(network(inputs).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    value = losses.orpo(means[:ROWS], means[ROWS:], nats.expand(ROWS), beta=0.5).mean()
    assert_equal(value, network, expected, trainer.model)


@pytest.mark.parametrize("kind", ["simpo", "smoothed"])
def test_simpo_and_label_smoothing_equal_trls(material, tmp_path, kind):
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    fields = (
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.6}
        if kind == "simpo"
        else {"loss_type": "sigmoid", "beta": 0.3, "label_smoothing": 0.15}
    )
    config = settings(CPOConfig, tmp_path, cpo_alpha=0.0, **fields)
    trainer = new_trainer(CPOTrainer, config, material, PAIRS)
    trainer.model.eval()
    ids, attention, completion = rows(material, 2 * ROWS)
    expected, _ = trainer.get_batch_loss_metrics(trainer.model, labelled(ids, attention, completion))
    network = ours(material, "policy")
    policy = scores(network, ids, completion)
    if kind == "simpo":
        means = policy.means_B
        value = losses.simpo(means[:ROWS], means[ROWS:], beta=2.0, margin=0.6).mean()
    else:  # CPO is smoothed DPO without a reference
        sums = policy.sums_B
        value = losses.dpo(sums[:ROWS], sums[ROWS:], beta=0.3, label_smoothing=0.15).mean()
    assert_equal(value, network, expected, trainer.model)


@pytest.mark.parametrize(("corrected", "temperature"), [(True, 1.0), (False, 1.0), (True, 0.7)])
def test_grpo_equals_trls(material, tmp_path, corrected, temperature):
    from trl import GRPOConfig, GRPOTrainer

    config = settings(
        GRPOConfig,
        tmp_path,
        beta=0.2,
        epsilon=0.2,
        loss_type="grpo",
        num_generations=2,
        temperature=temperature,
        use_bias_correction_kl=corrected,
    )

    def no_reward(completions, **_):
        return [0.0] * len(completions)

    trainer = new_trainer(GRPOTrainer, config, material, {"prompt": ["When?", "Where?"]}, reward_funcs=no_reward)
    trainer.model.eval()
    ids, _, _ = rows(material, 4)
    ids = ids.clamp(min=10)
    answers, mask = ids[:, PROMPT:], torch.ones(4, LENGTH - PROMPT, dtype=torch.long)
    mask[1, 4:] = 0
    inputs, targets = inputs_of(ids, torch.cat([torch.zeros(4, PROMPT, dtype=torch.long), mask], dim=1))
    advantages = losses.group_advantages(torch.tensor([[1.0, 0.2], [0.1, 0.6]]), by_deviation=True).flatten()
    network = ours(material, "policy")
    with torch.no_grad():
        reference = token_logprobs(ours(material, "reference"), inputs, targets, temperature=temperature)
        old = token_logprobs(network, inputs, targets, temperature=temperature)
    old = torch.where(targets == IGNORED, old, old + torch.linspace(-0.4, 0.4, old.shape[1]))  # some beyond the clip
    batch = {
        "prompt_ids": ids[:, :PROMPT],
        "prompt_mask": torch.ones(4, PROMPT, dtype=torch.long),
        "completion_ids": answers,
        "completion_mask": mask,
        "advantages": advantages,
        "ref_per_token_logps": reference[:, PROMPT - 1 :],
        "old_per_token_logps": old[:, PROMPT - 1 :],
    }
    expected = trainer._compute_loss(trainer.model, batch)
    logprobs = token_logprobs(network, inputs, targets, temperature=temperature)
    per_token = losses.grpo(logprobs, old, reference, advantages, beta=0.2, clip=0.2, is_kl_corrected=corrected)
    wanted = targets != IGNORED
    value = ((per_token * wanted).sum(dim=1) / wanted.sum(dim=1)).mean()
    assert_equal(value, network, expected, trainer.model)


@pytest.mark.parametrize("beta", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_the_divergences_of_distillation_equal_trls_times_their_normalisation(beta):
    from trl.experimental.gkd import GKDTrainer

    student, teacher = torch.randn(2, 2, 5, 17, generator=torch.Generator().manual_seed(0))
    student.requires_grad_()
    expected = GKDTrainer.generalized_jsd_loss(student, teacher, beta=beta, reduction="sum")
    wanted = torch.autograd.grad(expected, student)[0]
    inner = beta * (1 - beta) or 1.0  # theirs vanishes towards its ends and jumps at them
    value = generalised_jsd(
        F.log_softmax(student, -1).flatten(0, 1), F.log_softmax(teacher, -1).flatten(0, 1), beta=beta
    )
    assert value.sum().item() * inner == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(torch.autograd.grad(value.sum(), student)[0] * inner, wanted, rtol=1e-4, atol=1e-6)
