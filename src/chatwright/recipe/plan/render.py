"""A plan for people and programs: a recipe with its reasons as comments, or JSON."""

from typing import Any

import tomli_w

from chatwright.foundation.console import duration
from chatwright.recipe.plan.choose import measure_every, save_every, time_interval
from chatwright.recipe.plan.cost import step_flops
from chatwright.recipe.plan.path import Advice, advise
from chatwright.recipe.plan.proposal import Candidate, Outlook, Plan
from chatwright.recipe.plan.room import room_of
from chatwright.recipe.plan.shapes import learning_rate_for
from chatwright.train.footprint import static_bytes


def as_json(plan: Plan) -> dict[str, Any]:
    """Everything the plan holds, and the recipe's text under `recipe`."""
    low, high = time_interval(plan.chosen.seconds)
    machine = plan.machine._asdict() | {"rates": [rate._asdict() for rate in plan.machine.rates]}
    return {
        "chosen": _candidate(plan.chosen, plan),
        "alternatives": {
            name: _candidate(one, plan)
            for name, one in (("half", plan.half), ("double", plan.double))
            if one is not None
        },
        "too_large": list(plan.too_large),
        "predicted": {
            "seconds": round(plan.chosen.seconds, 1),
            "training_seconds": round(plan.chosen.training_seconds, 1),
            "measuring_seconds": round(plan.chosen.measuring_seconds, 1),
            "seconds_interval": [round(low, 1), round(high, 1)],
            "memory_bytes": plan.memory._asdict() | {"total": plan.memory.total},
            **_outlook(plan.chosen, plan),
            "loss_unit": plan.law.unit,
            "joules": None if plan.watts is None else round(plan.watts * plan.chosen.seconds),
            "epochs": round(plan.epochs, 3),
            "repeats_worth": round(plan.repeats_worth, 4),
        },
        "path": _advice(plan).to_json(),
        "law": {"source": plan.law.source, "unit": plan.law.unit},
        "corpus": {key: value for key, value in plan.corpus._asdict().items() if key != "sections"},
        "machine": machine,
        "warnings": list(plan.warnings),
        "recipe": as_recipe(plan),
    }


def _candidate(one: Candidate, plan: Plan) -> dict[str, Any]:
    return {
        "parameters": one.parameters,
        "tokens": one.tokens,
        "tokens_per_parameter": round(one.tokens / one.parameters, 2),
        "steps": one.steps,
        "batch_rows": one.batch_rows,
        "micro_rows": one.micro_rows,
        "parallel": one.parallel,
        "seconds": round(one.seconds, 1),
        "training_seconds": round(one.training_seconds, 1),
        "measuring_seconds": round(one.measuring_seconds, 1),
        "law_score": round(one.score, 4),
        **_outlook(one, plan),
        "model": one.shape.model_dump(mode="json", exclude_none=True),
    }


def _outlook(one: Candidate, plan: Plan) -> dict[str, Any]:
    expected = plan.outlook(one)
    return {
        "loss": None if expected.loss is None else round(expected.loss, 4),
        "loss_interval": None if expected.interval is None else [round(end, 4) for end in expected.interval],
    }


def as_recipe(plan: Plan) -> str:
    """TOML that `chatwright run` takes; what was measured and expected stands above, as comments."""
    shape, chosen = plan.chosen.shape, plan.chosen
    model_keys = ("width", "layers", "heads", "key_heads", "head_width", "mlp_width", "context_length")
    recipe: dict[str, Any] = {
        "name": plan.corpus.name,
        "seed": 1,
        **plan.corpus.sections,
        "model": {key: getattr(shape, key) for key in model_keys},
        "pretrain": {
            "steps": chosen.steps,
            "batch_rows": chosen.batch_rows,
            "micro_rows": chosen.micro_rows,
            **({} if chosen.parallel == "ddp" else {"parallel": chosen.parallel}),
            **({} if plan.machine.asked == "auto" else {"device": plan.machine.asked}),
            "precision": plan.machine.precision,
            "evaluate_every": measure_every(chosen.steps),
            "checkpoint_every": save_every(chosen),
            **({"sample_prompts": ["The", "It was"]} if chosen.parallel == "ddp" else {}),  # slow where it is in shards
            "optimizer": {"learning_rate": learning_rate_for(shape.width), "muon_learning_rate": 0.02},
        },
        "evaluate": {"prompts": ["The", "It was"]},
    }
    comments = "".join(f"# {line}".rstrip() + "\n" for line in _explanation(plan))
    return comments + tomli_w.dumps(recipe)


def _explanation(plan: Plan) -> list[str]:
    low, high = time_interval(plan.chosen.seconds)
    machine, corpus, advice = plan.machine, plan.corpus, _advice(plan)
    pace = ", ".join(f"width {rate.width}: {rate.flops_per_second / 1e9:.0f} GFLOP/s" for rate in machine.rates)
    # A machine of the table was never seen: no training step of it was timed, and it has no processor to count on.
    how, threads = (
        ("training steps measured", f"{machine.threads} threads, ") if machine.seconds else ("assumed pace", "")
    )
    return [
        "Made by `chatwright plan`; every key may be changed.",
        "",
        f"machine:   {machine.device}, {threads}{machine.precision} ({machine.precision_reason}),",
        f"           {machine.memory_bytes / 1e9:.1f} GB free; {how}: {pace}",
        f"documents: {corpus.tokens:,} training tokens, {corpus.bytes_per_token:.2f} bytes each ({corpus.how})",
        f"model:     {plan.chosen.parameters:,} parameters, {plan.chosen.tokens:,} tokens, {plan.epochs:.2f} times "
        "over the documents",
        f"expected:  {duration(low)} to {duration(high)} of pretraining where nothing else runs, "
        f"{duration(plan.chosen.measuring_seconds)} of it",
        f"           for measurements on held-out text; about {plan.memory.total / 1e9:.2f} GB",
        f"           {_loss_sentence(plan)}",
        f"           {_energy_sentence(plan)}",
        *_sharding(plan),
        *(f"warning:   {warning}" for warning in plan.warnings),
        *_beside("half", plan.half, plan),
        *_beside("double", plan.double, plan),
        f"path:      {advice.path}",
        *(f"           {reason}" for reason in advice.reasons),
        f"sizes by:  {plan.law.source}",
        "batch by:  0.2920 C^0.3271 tokens a step (Bi et al. 2024); rates: this project's, by the root of the width",
        "",
    ]


def _sharding(plan: Plan) -> list[str]:
    """Why the model lies in shards, where it does."""
    if plan.chosen.parallel == "ddp":
        return []
    whole, room = static_bytes(plan.chosen.shape) / 1e9, room_of(plan.machine) / 1e9
    return [
        f"shards:    over all {plan.machine.num_devices} devices (`pretrain.parallel`): weights, gradients and moments "
        f"take {whole:,.0f} GB,",
        f"           and a plan takes {room:.0f} GB of a device at most; what shards send is not in the time",
    ]


def _advice(plan: Plan) -> Advice:
    chosen = plan.chosen
    return advise(
        corpus_tokens=plan.corpus.tokens,
        flops=chosen.steps * step_flops(chosen.shape, chosen.step_tokens),
        seconds=chosen.training_seconds,
        memory_bytes=plan.machine.memory_bytes,
    )


def _loss_sentence(plan: Plan) -> str:
    return _loss_told(plan.outlook(plan.chosen), plan.law.unit) or (
        "loss not predicted: the law was not made for such sizes, it only ranks them; `--fit` fits one to this corpus"
    )


def _loss_told(expected: Outlook, unit: str) -> str | None:
    """The loss with its band where the law has one; None where nothing is predicted."""
    if expected.loss is None:
        return None
    if expected.interval is None:
        return f"about {expected.loss:.2f} {unit} on text like the law's"
    low, high = expected.interval
    return f"{expected.loss:.3f} {unit} held out, nine times of ten between {low:.3f} and {high:.3f}"


def _energy_sentence(plan: Plan) -> str:
    if plan.watts is None and plan.machine.kind == "cuda":
        return "energy not known: the GPU does not tell its power, or the package `nvidia-ml-py` is not installed"
    if plan.watts is None:
        return "energy not known: the processor has no counters of RAPL, or they may not be read"
    if not plan.machine.seconds:
        most = plan.watts * plan.chosen.seconds / 3.6e6
        return f"at most {most:.3g} kWh of the devices, at the {plan.watts:,.0f} W of their data sheets"
    used = plan.watts * plan.chosen.seconds / 3.6e6
    return f"about {used:.3g} kWh if it draws throughout the {plan.watts:.0f} W read while small models were timed"


def _beside(name: str, one: Candidate | None, plan: Plan) -> list[str]:
    """Another size, and what it takes and promises in the same budget; or that no device holds it."""
    title = f"{name}:".ljust(11)
    if name in plan.too_large:
        return [f"{title}does not fit in {room_of(plan.machine) / 1e9:.1f} GB, all that a plan takes of the memory"]
    if one is None:
        return []
    low, high = time_interval(one.seconds)
    return [
        f"{title}{one.parameters:,} parameters (width {one.shape.width}, {one.shape.layers} layers), "
        f"{one.steps:,} steps, {one.tokens:,} tokens in the same budget,",
        f"           {duration(low)} to {duration(high)}; "
        f"{_loss_told(plan.outlook(one), plan.law.unit) or 'loss not predicted'}",
    ]
