"""The stage `pretrain`: a network learns to predict the next token of the corpus."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from chatwright.foundation import storage
from chatwright.foundation.config import Config
from chatwright.foundation.console import say
from chatwright.foundation.devices import Placement
from chatwright.foundation.errors import RefusedError
from chatwright.foundation.stage import StageContext
from chatwright.foundation.streams import seed_for
from chatwright.model.config import ModelConfig
from chatwright.model.directory import load_model, save_model
from chatwright.model.network import Network
from chatwright.tokens.mixture import MixtureConfig, MixtureOrder
from chatwright.tokens.order import WindowOrder
from chatwright.tokens.shards import TokenData, TokenSplit
from chatwright.tokens.tokenizer import Tokenizer, load_tokenizer
from chatwright.train.ahead import Ahead
from chatwright.train.batches import WindowSource
from chatwright.train.heldout import HeldoutCheck, sample_documents
from chatwright.train.loop import Trainer
from chatwright.train.objectives import next_token
from chatwright.train.optimizers import OptimizerConfig
from chatwright.train.ranks import Ranks
from chatwright.train.samples import Samples
from chatwright.train.schedule import ScheduleConfig
from chatwright.train.settings import TrainingConfig
from chatwright.train.sharding import whole_network


class PretrainConfig(TrainingConfig):
    """Length, batch and learning of the pretraining."""

    steps: int = Field(default=500, ge=1)
    mixture: MixtureConfig | None = None  # shares of domains; None takes each as large as it is
    batch_rows: int = Field(default=16, ge=1)  # windows of the model's context a step, over all ranks
    # Windows at once; gradients are accumulated over the batch. "auto" searches what fits and is fastest, once a run.
    # A number is the default: with it, the same recipe gives the same bits again.
    micro_rows: Annotated[int, Field(ge=1)] | Literal["auto"] = 16
    sample_prompts: list[str] = []  # what the network writes after them goes into `metrics.jsonl` at each measurement
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()

    @property
    def is_fitted(self) -> bool:
        """Whether how much is computed at once is searched."""
        return self.micro_rows == "auto"


class PretrainInputs(Config):
    """The two sections that decide a pretraining."""

    model: ModelConfig
    pretrain: PretrainConfig


def run(context: StageContext) -> dict[str, Any]:
    """Train from fresh weights, or from a base model if the recipe names one; leaves `model/` and `metrics.jsonl`."""
    config: PretrainInputs = context.config
    settings = config.pretrain
    tokenizer = load_tokenizer(context.inputs["tokenizer"])
    data = TokenData(context.inputs["tokens"])
    if data.tokenizer_digest != tokenizer.digest:
        raise RefusedError("the token shards were made with another tokenizer", hint="delete `tokens/` and run again")
    network = build_network(config.model, tokenizer, seed=context.seed, base=context.inputs.get("base"))
    placement = settings.settle(context.output, width=network.config.width)
    _introduce(network, settings, placement)
    train = data.split("train")
    order = _order(settings, train, length=network.config.context_length, seed=context.seed)
    shares = order.shares(settings.steps * settings.batch_rows) if isinstance(order, MixtureOrder) else []
    fingerprint = _fingerprint(settings, train, length=network.config.context_length, seed=context.seed)
    heldout = sample_documents(data.split("heldout"), tokens_per_domain=settings.heldout_tokens)
    check = HeldoutCheck(network, heldout, end_of_text=tokenizer.end_of_text) if heldout else None
    at_once = settings.batch_rows if settings.micro_rows == "auto" else settings.micro_rows
    samples = Samples(network, tokenizer, settings.sample_prompts) if settings.sample_prompts else None
    source = WindowSource(order=order, rows=settings.batch_rows, micro_rows=at_once, fingerprint=fingerprint)
    trainer = Trainer(
        network=network,
        trained=network,
        objective=next_token,
        source=Ahead(source, steps=settings.steps),
        config=settings.loop(steps=settings.steps, seed=context.seed),
        optimizer=settings.optimizer,
        schedule=settings.schedule,
        placement=placement,
        directory=context.output,
        flops_per_token=network.config.flops_per_token(),
        evaluate=_measurement(check, samples),
    )
    summary = trainer.run(context.stop, label="pretrain")
    summary |= {
        "parameters": network.config.num_parameters(),
        "precision": placement.precision,
        "precision_reason": placement.reason,
        "device": placement.device.type,
        "threads": placement.threads,
        "epochs": round(summary["target_tokens"] / max(1, len(train)), 3),
    }
    if shares:
        summary["mixture"] = {one.domain: {"tokens": one.tokens, "epochs": one.epochs} for one in shares}
    finished = network if settings.parallel == "ddp" else whole_network(network, is_first=Ranks().is_first)
    if Ranks().is_first and finished is not None:
        summary["model_digest"] = save_model(context.output / "model", finished, tokenizer, lineage=context.lineage)
    return summary


def _measurement(check: HeldoutCheck | None, samples: Samples | None) -> Callable[[], dict[str, Any]] | None:
    """What is measured between steps, of what was asked for."""
    parts = [part for part in (check, samples) if part is not None]
    if not parts:
        return None
    return lambda: {name: value for part in parts for name, value in part().items()}


def _order(settings: PretrainConfig, train: TokenSplit, *, length: int, seed: int) -> WindowOrder | MixtureOrder:
    """The order of windows that the recipe asks for."""
    if settings.mixture is None:
        return WindowOrder(train, length=length, seed=seed)
    return MixtureOrder(train, length=length, seed=seed, config=settings.mixture, batch_rows=settings.batch_rows)


def _fingerprint(settings: PretrainConfig, train: TokenSplit, *, length: int, seed: int) -> str:
    """Digest of everything that the order of data depends on."""
    identity: list[Any] = [train.digest, seed, settings.batch_rows, length]
    if settings.mixture is not None:
        identity.append(settings.mixture.model_dump(mode="json"))
    return storage.digest_json(identity)


def build_network(config: ModelConfig, tokenizer: Tokenizer, *, seed: int, base: Path | None = None) -> Network:
    """A fresh network for this tokenizer, or the base model's."""
    if base is not None:
        return load_model(base).network
    if 0 < config.vocabulary_size < tokenizer.size:
        raise RefusedError(
            f"`model.vocabulary_size` is below the tokenizer's {tokenizer.size}: {config.vocabulary_size}",
            hint="leave it out: it is then the tokenizer's",
        )
    network = Network(config.model_copy(update={"vocabulary_size": config.vocabulary_size or tokenizer.size}))
    network.initialise(torch.Generator().manual_seed(seed_for(seed, "weights")))
    return network


def _introduce(network: Network, settings: PretrainConfig, placement: Placement) -> None:
    if not Ranks().is_first:
        return
    tokens = settings.steps * settings.batch_rows * network.config.context_length
    say(
        f"  {network.config.num_parameters():,} parameters, {tokens:,} tokens in {settings.steps} steps, "
        f"{placement.device.type}, {placement.precision} ({placement.reason}), {placement.threads} threads"
    )
