"""The stage `finetune`: a base model learns from conversations, and is measured for what it gained and forgot."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import nn

from chatwright.feedback.conversations import Conversation, read_conversations
from chatwright.foundation import storage
from chatwright.foundation.console import say
from chatwright.foundation.stage import StageContext
from chatwright.foundation.streams import seed_for
from chatwright.model.adapter import Adapter, LoraConfig
from chatwright.model.directory import LoadedModel, load_model, save_model
from chatwright.model.network import Network
from chatwright.model.prompts import ChatEncoder
from chatwright.model.selection import SELECTIONS, select
from chatwright.tokens.order import WindowOrder
from chatwright.tokens.shards import TokenData, TokenDocument
from chatwright.tokens.tokenizer import TURN_END, TURN_START
from chatwright.train.heldout import by_domain, document_losses, sample_documents
from chatwright.train.loop import Trainer
from chatwright.train.objectives import next_token
from chatwright.train.optimizers import OptimizerConfig
from chatwright.train.ranks import Ranks
from chatwright.train.schedule import ScheduleConfig
from chatwright.train.settings import TrainingConfig
from chatwright.tune.chats import ChatSource, Sample, Variation, collate, encode_samples
from chatwright.tune.keeping import KeepingBase

REPORT = "report.json"


class TuneOptimizerConfig(OptimizerConfig):
    """The same rules with the defaults of a fine-tune, which a recipe that sets one key keeps for the others."""

    kind: Literal["muon", "adamw"] = "adamw"
    learning_rate: float = Field(default=2e-3, gt=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)  # a fine-tune's few targets a step are noisy


class TuneScheduleConfig(ScheduleConfig):
    """The same course with the defaults of a fine-tune: no plateau."""

    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    cooldown_share: float = Field(default=0.95, ge=0, le=1)


class FinetuneConfig(TrainingConfig):
    """What is learned, by how few parameters, and what guards the rest."""

    data: str  # conversations: JSON Lines or CSV
    test: str | None = None  # conversations for the measurement before and after; never trained on
    # Low-rank updates on a frozen base, every parameter, or some: "last-2" (layers), "biases", "embeddings-and-norms",
    # "pattern:REGEX" (over the parameters' names).
    method: str = Field(default="lora", pattern=f"^(lora|all|{SELECTIONS})$")
    lora: LoraConfig = LoraConfig()
    epochs: float = Field(default=4.0, gt=0)  # passes over the conversations
    batch_rows: int = Field(default=16, ge=1)  # conversations a step
    micro_tokens: int = Field(default=4096, ge=1)  # at once; the result does not depend on it, the memory does
    whole_share: float = Field(default=1.0, gt=0, le=1)  # of samples learned to the end; for answers that recur: less
    opening_tokens: int = Field(default=12, ge=1)  # of the answer, that the other samples are learned to
    word_dropout: float = Field(default=0.0, ge=0, lt=1)  # share of the user's tokens left out, anew in each pass
    replay_share: float = Field(default=0.1, ge=0, lt=1)  # of a step's rows: base text, against forgetting
    replay_weight: float = Field(default=1.0, gt=0)  # of a token of base text beside one of an answer
    replay_length: int = Field(default=128, ge=2)  # tokens of a row of base text
    optimizer: TuneOptimizerConfig = TuneOptimizerConfig()
    schedule: TuneScheduleConfig = TuneScheduleConfig()
    evaluate_every: int = Field(default=200, ge=1)  # steps
    heldout_tokens: int = Field(default=16_384, ge=1)  # of each domain, to see what is forgotten

    def problems(self) -> Iterator[str]:
        """What would have no effect is not accepted."""
        if self.method != "lora" and self.lora != LoraConfig():
            yield f'`lora` has no effect with `method = "{self.method}"`'
        if self.method == "lora" and self.optimizer.kind == "muon":
            yield '`optimizer.kind = "muon"` has no effect with `method = "lora"`: low-rank updates are AdamW\'s'


class _Task(NamedTuple):
    """The two sides that a fine-tune is measured on."""

    test: list[Conversation]
    samples: list[Sample]
    heldout: list[TokenDocument]  # of the base's documents, a sample of each domain
    begin: int


def run(context: StageContext) -> dict[str, Any]:
    """Fine-tune; leaves `adapter/` (for LoRA), `model/` (merged), `metrics.jsonl` and `report.json`."""
    config: FinetuneConfig = context.config
    base = load_model(context.inputs["base"])
    network, tokenizer = base.network, base.tokenizer
    encoder = ChatEncoder(tokenizer)
    length = network.config.context_length
    samples = encode_samples(read_conversations(Path(config.data)), encoder, context_length=length)
    placement = config.settle(context.output, width=network.config.width)
    network.to(placement.device)
    data = TokenData(context.inputs["tokens"]) if "tokens" in context.inputs else None
    task = _task(config, encoder, data, tokenizer.begin_of_text, length)
    trained, trained_share = _trained_part(config, base, seed=context.seed)
    _introduce(samples, trained_share)
    with Ranks().first_ahead():
        before = _measured(context.output / "before.json", network, task)
    handles = trained.attach(network) if isinstance(trained, Adapter) else []
    trainer = Trainer(
        network=network,
        trained=trained,
        objective=KeepingBase(network, trained),
        source=_source(config, samples, data, length=length, seed=context.seed),
        config=config.loop(steps=_num_steps(config, len(samples)), seed=context.seed),
        optimizer=config.optimizer,
        schedule=config.schedule,
        placement=placement,
        directory=context.output,
        evaluate=(lambda: _test_figures(network, task)) if task.samples else None,
    )
    summary = trainer.run(context.stop, label="finetune")
    for handle in handles:
        handle.remove()
    if isinstance(trained, Adapter):
        trained.merge(network)
    after = _measure(network, task)
    report = {**trained_share, **summary, "before": before, "after": after, "forgetting": _forgetting(before, after)}
    if Ranks().is_first:
        if isinstance(trained, Adapter):
            trained.save(context.output / "adapter", base_digest=base.digest)
        lineage = {**context.lineage, "base": base.digest}
        report["model_digest"] = save_model(context.output / "model", network, tokenizer, lineage=lineage)
        storage.write_json(context.output / REPORT, report)
        _tell(report)
    return report


def _num_steps(config: FinetuneConfig, samples: int) -> int:
    return max(1, math.ceil(config.epochs * samples / config.batch_rows))


def _task(config: FinetuneConfig, encoder: ChatEncoder, data: TokenData | None, begin: int, length: int) -> _Task:
    test = read_conversations(Path(config.test)) if config.test else []
    samples = encode_samples(test, encoder, context_length=length)
    heldout = [] if data is None else sample_documents(data.split("heldout"), tokens_per_domain=config.heldout_tokens)
    return _Task(test, samples, heldout, begin)


def _trained_part(config: FinetuneConfig, base: LoadedModel, *, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """The module that is trained: the network, or an adapter on the then frozen network."""
    network = base.network
    total = network.config.num_parameters()
    if config.method == "all":
        return network, {"method": "all", "trained": total, "total": total, "share": 1.0}
    if config.method != "lora":
        selected = select(network, config.method)
        trained = sum(parameter.numel() for parameter in selected.parameters())
        return selected, {"method": config.method, "trained": trained, "total": total, "share": trained / total}
    network.requires_grad_(False)
    adapter = Adapter(network, config.lora, trained_tokens=_unmet_markers(base))
    adapter.initialise(torch.Generator().manual_seed(seed_for(seed, "adapter")))
    trained = adapter.num_parameters()
    return adapter, {"method": "lora", "trained": trained, "total": total, "share": trained / total}


def _unmet_markers(base: LoadedModel) -> tuple[int, ...]:
    """Turn markers that a base of ours never met in pretraining, so that their embeddings still are as drawn."""
    if base.lineage.get("stage") != "pretrain":
        return ()
    found = (base.tokenizer.special(token) for token in (TURN_START, TURN_END))
    return tuple(number for number in found if number is not None)


def _source(
    config: FinetuneConfig, samples: Sequence[Sample], data: TokenData | None, *, length: int, seed: int
) -> ChatSource:
    replay, replay_rows, digest = None, 0, None
    if data is not None and config.replay_share > 0:
        train = data.split("train")
        replay = WindowOrder(train, length=min(length, config.replay_length), seed=seed_for(seed, "replay"))
        replay_rows = max(1, round(config.batch_rows * config.replay_share / (1 - config.replay_share)))
        digest = train.digest
    variation = Variation(config.whole_share, config.opening_tokens, config.word_dropout)
    fingerprint = storage.digest_json(
        [list(samples), seed, config.batch_rows, config.epochs, replay_rows, digest, variation, config.replay_weight]
    )
    return ChatSource(
        samples,
        rows=config.batch_rows,
        micro_tokens=config.micro_tokens,
        context_length=length,
        seed=seed,
        fingerprint=fingerprint,
        replay=replay,
        replay_rows=replay_rows,
        replay_weight=config.replay_weight,
        variation=variation,
    )


@torch.inference_mode()
def _test_figures(network: Network, task: _Task, *, rows: int = 64) -> dict[str, Any]:
    """Loss on the test answers, in bits per byte of their text."""
    device = network.lm_head.weight.device
    ordered = sorted(task.samples, key=lambda sample: len(sample.inputs))
    nats = sum(
        float(next_token(network, collate([[sample] for sample in ordered[start : start + rows]]).to(device)))
        for start in range(0, len(ordered), rows)
    )
    num_bytes = sum(
        len(message.content.encode()) for item in task.test for message in item.messages if message.role == "assistant"
    )
    bits = round(nats / math.log(2) / max(1, num_bytes), 5)
    return {"test_bits_per_byte": bits, "summary": f"test answers: {bits:.3f} bits per byte"}


def _measure(network: Network, task: _Task) -> dict[str, Any]:
    network.eval()
    result: dict[str, Any] = {}
    if task.samples:
        result["test_bits_per_byte"] = _test_figures(network, task)["test_bits_per_byte"]
    if task.heldout:
        length = network.config.context_length
        losses = document_losses(network, task.heldout, begin=task.begin, stride=length)
        result["heldout"] = by_domain(losses)
    return result


def _measured(path: Path, network: Network, task: _Task) -> dict[str, Any]:
    """The measurement before training, taken once even if the stage is killed and goes on."""
    if not path.is_file():
        with storage.publish_file(path) as scratch:
            storage.write_json(scratch, _measure(network, task))
    value: dict[str, Any] = storage.read_json(path)
    return value


def _forgetting(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float]:
    """Bits per byte lost on the base's held-out documents, by domain; positive means forgotten."""
    if "heldout" not in before:
        return {}
    return {
        name: round(after["heldout"][name]["bits_per_byte"] - values["bits_per_byte"], 5)
        for name, values in before["heldout"].items()
    }


def _introduce(samples: Sequence[Sample], share: dict[str, Any]) -> None:
    if not Ranks().is_first:
        return
    say(
        f"  {len(samples):,} conversations; {share['trained']:,} of {share['total']:,} parameters are "
        f"trained ({share['share']:.1%})"
    )
    dropped = [sample.dropped_turns for sample in samples if sample.dropped_turns]
    if dropped:
        say(f"  {len(dropped):,} of them exceed the context: their oldest {sum(dropped):,} turns are left out")


def _tell(report: dict[str, Any]) -> None:
    before, after = report["before"], report["after"]
    if "test_bits_per_byte" in before:
        say(
            f"  gained: test answers from {before['test_bits_per_byte']:.3f} to {after['test_bits_per_byte']:.3f} "
            "bits per byte"
        )
    if report["forgetting"]:
        say(f"  forgot: {report['forgetting']['all']:+.3f} bits per byte on the base's held-out documents")
