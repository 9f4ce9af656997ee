"""The stage `pretrain`: a network learns to predict the next token of the corpus."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from chatwright.foundation import storage
from chatwright.foundation.config import Config
from chatwright.foundation.console import say
from chatwright.foundation.devices import Placement
from chatwright.foundation.errors import RefusedError, UsageError
from chatwright.foundation.stage import StageContext
from chatwright.model.config import ModelConfig
from chatwright.model.directory import digest_of, save_model
from chatwright.model.network import Network
from chatwright.tokens.mixture import MixtureConfig, MixtureOrder
from chatwright.tokens.order import WindowOrder
from chatwright.tokens.packing import PackedOrder
from chatwright.tokens.shards import TokenData, TokenSplit
from chatwright.tokens.tokenizer import Tokenizer, load_tokenizer
from chatwright.train.ahead import Ahead
from chatwright.train.average import AverageConfig
from chatwright.train.batches import IGNORED, FittableSource, WindowSource
from chatwright.train.beginning import begin
from chatwright.train.chunk import settled_chunk
from chatwright.train.curriculum import CurriculumConfig, CurriculumOrder
from chatwright.train.document_scores import document_scores
from chatwright.train.fitting import free_bytes
from chatwright.train.growth import BatchConfig, BatchPlan, GrowingSchedule, GrowingSource, LengthConfig
from chatwright.train.heldout import HeldoutCheck, sample_documents
from chatwright.train.loop import Trainer
from chatwright.train.objectives import next_token
from chatwright.train.optimizers import OptimizerConfig
from chatwright.train.packed import PackedSource
from chatwright.train.ranks import Ranks
from chatwright.train.samples import Samples
from chatwright.train.schedule import ScheduleConfig
from chatwright.train.separated import SeparatedSource
from chatwright.train.settings import HeldoutTrainingConfig
from chatwright.train.sharding import ParallelName, whole_network


class PretrainConfig(HeldoutTrainingConfig):
    """Length, batch and learning of the pretraining."""

    steps: int = Field(default=500, ge=1)
    mixture: MixtureConfig | None = None  # shares of domains; None takes each as large as it is
    curriculum: CurriculumConfig | None = None  # easy documents first, or a control; None shuffles them all
    growth: LengthConfig | None = None  # short windows first; None has whole ones from the beginning
    packing: Literal["stream", "best_fit"] = "stream"  # best_fit: rows of whole documents; only longer ones are cut
    chunk: Literal["auto"] | None = None  # auto: the context is chosen, up to `model.context_length`, and said why
    batch_rows: int = Field(default=16, ge=1)  # windows of the model's context a step, over all ranks
    batch_growth: BatchConfig | None = None  # few rows first; None has `batch_rows` from the beginning
    separate_documents: bool = False  # those that share a window do not attend to each other
    skip_damaged: bool = False  # damaged token shards are left out, told and counted, where they would be refused
    # Windows at once; gradients are accumulated over the batch. "auto" searches what fits and is fastest, once a run.
    # A number is the default: with it, the same recipe gives the same bits again.
    micro_rows: Annotated[int, Field(ge=1)] | Literal["auto"] = 16
    parallel: ParallelName = "ddp"  # what each rank holds: everything, or a shard ("fsdp"; "hsdp" within a machine)
    sample_prompts: list[str] = []  # what the network writes after them goes into `metrics.jsonl` at each measurement
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    average: AverageConfig | None = None  # of the last steps' weights, saved in their place

    @property
    def is_fitted(self) -> bool:
        """Whether how much is computed at once is searched."""
        return self.micro_rows == "auto"

    def problems(self) -> Iterator[str]:
        """One order of documents, and what shards exclude."""
        if self.parallel != "ddp" and self.reduction == "exact":
            yield '`reduction = "exact"` has no effect on shards: set `parallel = "ddp"`'
        if self.parallel != "ddp" and self.compile == "auto":
            yield '`compile = "auto"` cannot be measured on shards: say true or false, or set `parallel = "ddp"`'
        if self.parallel != "ddp" and self.is_fitted:
            yield '`micro_rows = "auto"` cannot be searched on shards: give a number, or set `parallel = "ddp"`'
        if self.parallel != "ddp" and self.faults.audit_every:
            yield '`faults.audit_every` compares ranks that hold the same, not shards: set `parallel = "ddp"`'
        if self.mixture is not None and self.curriculum is not None:
            yield "`mixture` and `curriculum` both say which documents come when: give one of them"
        if self.batch_growth is not None and self.batch_growth.start >= self.batch_rows:
            yield (
                "`batch_growth.start` must be below `batch_rows`, to which batches grow: "
                f"{self.batch_growth.start} and {self.batch_rows}"
            )
        names = ("mixture", "curriculum", "growth", "batch_growth")
        orders = [name for name in names if getattr(self, name) is not None]
        if self.packing == "best_fit" and orders:
            yield f'`packing = "best_fit"` packs all documents alike: leave out {", ".join(orders)}'

    @property
    def batches(self) -> BatchPlan:
        """Which rows each step reads."""
        return BatchPlan(full=self.batch_rows, steps=self.steps, growth=self.batch_growth)


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
    train = data.split("train", skip_damaged=settings.skip_damaged)
    shape = config.model if settings.chunk is None else _with_chunk(context, tokenizer, train)
    base, in_shards = context.inputs.get("base"), settings.parallel != "ddp"
    network, values = begin(shape, tokenizer, seed=context.seed, base=base, in_shards=in_shards)
    placement = settings.settle(context.output, width=network.config.width)
    _introduce(network, settings, placement)
    length = network.config.context_length
    order = _order(context, train, tokenizer, length=length, device=placement.device)
    shares = order.shares(settings.batches.first_row(settings.steps)) if isinstance(order, MixtureOrder) else []
    identity = _identity(context, train, length=length)
    fingerprint = storage.digest_json([identity, train.digest])
    heldout = sample_documents(data.split("heldout"), tokens_per_domain=settings.heldout_tokens)
    check = HeldoutCheck(network, heldout, begin=tokenizer.begin_of_text) if heldout else None
    samples = Samples(network, tokenizer, settings.sample_prompts) if settings.sample_prompts else None
    source = _source(settings, order, length=length, fingerprint=fingerprint, end_of_text=tokenizer.end_of_text)
    trainer = Trainer(
        network=network,
        trained=network,
        objective=next_token,
        source=Ahead(source, steps=settings.steps),
        config=settings.loop(
            steps=settings.steps, seed=context.seed, parallel=settings.parallel, average=settings.average
        ),
        optimizer=settings.optimizer,
        schedule=GrowingSchedule(base=settings.schedule, batches=settings.batches),
        placement=placement,
        directory=context.output,
        flops_per_token=network.config.flops_per_token(),
        evaluate=_measurement(check, samples),
        identity=identity,
        values=values,
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
    if train.left_out:
        summary["left_out"] = [one._asdict() for one in train.left_out]
    if shares:
        summary["mixture"] = {one.domain: {"tokens": one.tokens, "epochs": one.epochs} for one in shares}
    finished = whole_network(network, is_first=Ranks().is_first) if in_shards else network
    if Ranks().is_first and finished is not None:
        summary["model_digest"] = save_model(context.output / "model", finished, tokenizer, lineage=context.lineage)
    return summary


def _measurement(check: HeldoutCheck | None, samples: Samples | None) -> Callable[[], dict[str, Any]] | None:
    """What is measured between steps, of what was asked for."""
    parts = [part for part in (check, samples) if part is not None]
    if not parts:
        return None
    return lambda: {name: value for part in parts for name, value in part().items()}


def _with_chunk(context: StageContext, tokenizer: Tokenizer, train: TokenSplit) -> ModelConfig:
    """The model's shape with a context chosen by the documents and the memory."""
    config: PretrainInputs = context.config
    if "base" in context.inputs:
        raise UsageError('`pretrain.chunk = "auto"` has no effect on a base model, whose context is its own')
    size = config.model.vocabulary_size or tokenizer.size
    shape = config.model.model_copy(update={"vocabulary_size": size})
    placement = config.pretrain.settle(context.output, width=shape.width)
    with Ranks().first_ahead():  # one machine decides for all
        chosen = settled_chunk(
            context.output,
            shape,
            train.all_spans()[1],
            free_bytes=free_bytes(placement.device),
            precision=placement.precision,
        )
    if Ranks().is_first:
        for line in chosen.reasons:
            say(f"  {line}")
    return shape.model_copy(update={"context_length": chosen.length})


Order = WindowOrder | MixtureOrder | CurriculumOrder | PackedOrder


def _order(
    context: StageContext, train: TokenSplit, tokenizer: Tokenizer, *, length: int, device: torch.device
) -> Order:
    """The order of windows that the recipe asks for."""
    settings: PretrainConfig = context.config.pretrain
    if settings.mixture is not None:
        return MixtureOrder(
            train,
            length=length,
            seed=context.seed,
            config=settings.mixture,
            first_row=settings.batches.first_row,
        )
    if settings.packing == "best_fit":
        packed = PackedOrder(
            train, length=length, seed=context.seed, end_of_text=tokenizer.end_of_text, ignored=IGNORED
        )
        if Ranks().is_first:
            say(f"  {packed.packing.described(packed.num_documents)}")
        return packed
    if settings.curriculum is None:
        return WindowOrder(train, length=length, seed=context.seed)
    with Ranks().first_ahead():  # a model's losses are computed once
        scores = document_scores(
            train, settings.curriculum, tokenizer=tokenizer, directory=context.output, device=device
        )
    if Ranks().is_first:
        say(f"  {settings.curriculum.described()}")
    return CurriculumOrder(
        train,
        length=length,
        scores=scores,
        config=settings.curriculum,
        steps=settings.batches.whole_steps,
        rows=settings.batch_rows,
        seed=context.seed,
    )


def _source(
    settings: PretrainConfig, order: Order, *, length: int, fingerprint: str, end_of_text: int
) -> FittableSource:
    """Whole windows, or growing ones, or growing batches; documents separated where asked for."""
    rows, growth = settings.batch_rows, settings.growth
    at_once = rows if settings.micro_rows == "auto" else settings.micro_rows
    source: FittableSource
    if isinstance(order, PackedOrder):
        separate = settings.separate_documents
        return PackedSource(order=order, rows=rows, micro_rows=at_once, fingerprint=fingerprint, separate=separate)
    if growth is None and settings.batch_growth is None:
        source = WindowSource(order=order, rows=rows, micro_rows=at_once, fingerprint=fingerprint)
    else:
        if growth is not None and growth.start >= length:
            raise UsageError(f"`pretrain.growth.start` must be below the context of {length} tokens: {growth.start}")
        source = GrowingSource(
            order=order,
            batches=settings.batches,
            micro_rows=at_once,
            full=length,
            fingerprint=fingerprint,
            growth=growth,
        )
    if settings.separate_documents:
        return SeparatedSource(source=source, end_of_text=end_of_text, fingerprint=fingerprint)
    return source


def _identity(context: StageContext, train: TokenSplit, *, length: int) -> dict[str, Any]:
    """Everything that the order of data depends on, and what a position may read of it, by name."""
    settings: PretrainConfig = context.config.pretrain
    told: dict[str, Any] = {"seed": context.seed, "batch_rows": settings.batch_rows, "context": length}
    parts: dict[str, Config | None] = {
        name: getattr(settings, name) for name in ("mixture", "curriculum", "growth", "batch_growth")
    }
    told |= {name: part.model_dump(mode="json") for name, part in parts.items() if part is not None}
    if settings.packing != "stream":
        told["packing"] = settings.packing
    if settings.curriculum is not None and settings.curriculum.scorer is not None:
        told["scorer"] = digest_of(Path(settings.curriculum.scorer))
    if settings.separate_documents:
        told["separate_documents"] = True
    return told | train.identity


def _introduce(network: Network, settings: PretrainConfig, placement: Placement) -> None:
    if not Ranks().is_first:
        return
    tokens = settings.batches.first_row(settings.steps) * network.config.context_length
    say(
        f"  {network.config.num_parameters():,} parameters, {tokens:,} tokens in {settings.steps} steps, "
        f"{placement.device.type}, {placement.precision} ({placement.reason}), {placement.threads} threads"
    )
