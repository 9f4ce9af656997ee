"""The loss of a fine-tune and its gradients equal those of TRL's SFT trainer, on the same conversations and weights.

Needs TRL 1.x (`pip install trl`, with accelerate and datasets). It is no dependency: without it this is skipped.
"""

import json

import pytest
import torch

from chatwright.feedback.conversations import read_conversations
from chatwright.model.directory import load_model, save_model
from chatwright.model.prompts import ChatEncoder
from chatwright.train.objectives import next_token
from chatwright.tune.chats import collate, encode_samples, pack

pytest.importorskip("trl", reason="TRL is not installed: `pip install trl`")
datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TURNS = (
    (("When does the ferry leave?", "At nine."),),
    (("Tickets?", "They are sold on board."), ("And children?", "They ride free.")),
    (("Opening hours?", "10:00-18:00, Monday to Saturday."),),
)


@pytest.fixture(scope="module")
def material(tmp_path_factory, make_network, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("sft")
    save_model(folder / "model", make_network(std=0.15), tiny_tokenizer, lineage={"stage": "pretrain"})
    lines = [
        {
            "messages": [
                {"role": role, "content": text}
                for pair in turns
                for role, text in zip(("user", "assistant"), pair, strict=True)
            ]
        }
        for turns in TURNS
    ]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.mark.parametrize("is_packed", [False, True])
def test_the_supervised_loss_equals_trls_for_the_same_batch(material, tmp_path, is_packed):
    from trl import SFTConfig, SFTTrainer

    loaded = load_model(material / "model")
    network = loaded.network
    conversations = read_conversations(material / "data.jsonl")
    samples = encode_samples(conversations, ChatEncoder(loaded.tokenizer), context_length=64)
    batch = collate(pack(samples, length=64) if is_packed else [[sample] for sample in samples])
    assert (batch.documents_BT is not None) == is_packed
    value = next_token(network, batch) / batch.num_targets

    rows = {"input_ids": [], "completion_mask": []}
    for sample in samples:
        last = next(token for token in reversed(sample.targets))
        rows["input_ids"].append([*sample.inputs, last if last >= 0 else sample.inputs[-1]])
        rows["completion_mask"].append([0, *(int(target >= 0) for target in sample.targets)])
    model = transformers.AutoModelForCausalLM.from_pretrained(material / "model", dtype=torch.float32)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            report_to=[],
            bf16=False,
            loss_type="nll",
            max_length=64,
            completion_only_loss=True,
        ),
        train_dataset=datasets.Dataset.from_dict(rows),
        processing_class=transformers.AutoTokenizer.from_pretrained(material / "model"),
    )
    trainer.model.eval()
    theirs = trainer.data_collator([trainer.train_dataset[number] for number in range(len(samples))])
    assert int((theirs["labels"] >= 0).sum()) == batch.num_targets
    expected = trainer.compute_loss(trainer.model, theirs)

    assert value.item() == pytest.approx(expected.item(), rel=2e-5)
    value.backward()
    expected.backward()
    mine = {name: part.grad for name, part in network.named_parameters() if part.grad is not None}
    for name, part in trainer.model.named_parameters():
        if part.grad is not None:
            assert float((mine[name] - part.grad).norm()) <= 4e-4 * float(part.grad.norm()) + 1e-7, name
