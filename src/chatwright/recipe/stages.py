"""The stages of a run in their order: what each depends on, and the function that does it. A closed table."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.data import clean_stage, collect
from chatwright.evaluate import stage as evaluate
from chatwright.foundation import storage
from chatwright.foundation.masking import masked
from chatwright.foundation.stage import StageContext
from chatwright.model import directory
from chatwright.recipe.recipe import Recipe
from chatwright.recipe.report.facts import MODEL_NAMES
from chatwright.tokens import stages as tokens
from chatwright.tokens.mixture import overall_weights
from chatwright.tokens.tokenizer import TokenizerConfig
from chatwright.train import pretrain
from chatwright.tune import finetune
from chatwright.tune.distill import stage as distill
from chatwright.tune.preferences import align, reward_stage
from chatwright.tune.preferences.material import store_digest


class Outside(NamedTuple):
    """What a stage reads beside its inputs."""

    key: Any  # digests in the shape that stages' keys are made of: another one would do every stage again
    read: dict[str, dict[str, str]]  # key of the stage's section -> path and digest of what it names


def _nothing_outside(_: Recipe) -> Outside:
    return Outside(None, {})


class Stage(NamedTuple):
    """A function from directories to a directory."""

    name: str  # also its directory in the run
    version: int  # raised when the same inputs would give another result
    command: str  # the command that does it alone
    wanted: Callable[[Recipe], bool]
    inputs: Callable[[Recipe], dict[str, str]]  # name in the context -> stage that made it
    config: Callable[[Recipe], Any]
    run: Callable[[StageContext], dict[str, Any]]
    outside: Callable[[Recipe], Outside] = _nothing_outside
    published: Callable[[Path], None] | None = None  # called with the stage's directory, once it is there


def _has_documents(recipe: Recipe) -> bool:
    return recipe.collect is not None


def _tokenizer_input(recipe: Recipe) -> dict[str, str]:
    return {"tokenizer": "base" if recipe.base is not None else "tokenizer"}


def _tokenizer_config(recipe: Recipe) -> TokenizerConfig:
    """Where training weighs domains, a tokenizer is learned from them by the same weights."""
    config, training = recipe.tokenizer, recipe.pretrain
    mixture = None if training is None else training.mixture
    if training is None or mixture is None or config.weights is not None or config.kind == "bytes":
        return config
    weights = overall_weights(mixture, first_row=training.batches.first_row, steps=training.steps)
    return config.model_copy(update={"weights": weights})


def _base_of_finetune(recipe: Recipe) -> dict[str, str]:
    return {"base": "pretrain/model" if recipe.pretrain is not None else "base"}


def _finetune_inputs(recipe: Recipe) -> dict[str, str]:
    return _base_of_finetune(recipe) | ({"tokens": "tokens"} if _has_documents(recipe) else {})


def _newest_model(recipe: Recipe, *names: str) -> str:
    """The directory of the model that the run has made so far, or the one that it begins from."""
    made = next((name for name in names if getattr(recipe, name) is not None), None)
    return "base" if made is None else f"{made}/model"


def _align_inputs(recipe: Recipe) -> dict[str, str]:
    inputs = {"base": _newest_model(recipe, "finetune", "pretrain")}
    return inputs | ({"tokens": "tokens"} if _has_documents(recipe) else {})


def _distill_inputs(recipe: Recipe) -> dict[str, str]:
    own_teacher = recipe.distill is not None and recipe.distill.teacher is not None
    inputs = {} if own_teacher else {"teacher": _newest_model(recipe, "align", "finetune", "pretrain")}
    return inputs | ({"tokens": "tokens"} if _has_documents(recipe) else {})


def _outside(key: Any, named: Mapping[str, tuple[str | None, str | None]]) -> Outside:
    """With what is really there, by its name in the section: its path and its digest."""
    read = {name: {"path": path, "digest": digest} for name, (path, digest) in named.items() if path and digest}
    return Outside(key, read)


def _align_outside(recipe: Recipe) -> Outside:
    config = recipe.align
    if config is None:
        return Outside(None, {})
    data, test = _file_digest(config.data), _file_digest(config.test)
    store = None if config.store is None else store_digest(config.store)
    rewards = [_model_digest(reward.model) for reward in config.rewards]
    named = {"data": (config.data, data), "test": (config.test, test)}
    named["store"] = (None if config.store is None else masked(config.store), store)
    named |= {
        f"rewards.{number}.model": (reward.model, digest)
        for number, (reward, digest) in enumerate(zip(config.rewards, rewards, strict=True))
    }
    return _outside([data, test, store, rewards], named)


def _reward_outside(recipe: Recipe) -> Outside:
    config = recipe.reward
    if config is None:
        return Outside(None, {})
    data, test = _file_digest(config.data), _file_digest(config.test)
    return _outside([data, test], {"data": (config.data, data), "test": (config.test, test)})


def _distill_outside(recipe: Recipe) -> Outside:
    config = recipe.distill
    if config is None:
        return Outside(None, {})
    data, teacher, begin = _file_digest(config.data), _model_digest(config.teacher), _model_digest(config.begin)
    named = {"data": (config.data, data), "teacher": (config.teacher, teacher), "begin": (config.begin, begin)}
    return _outside([data, teacher, begin], named)


def _model_digest(path: str | None) -> str | None:
    return None if path is None or not Path(path).is_dir() else directory.digest_of(Path(path))


def _evaluate_inputs(recipe: Recipe) -> dict[str, str]:
    inputs = {"tokens": "tokens", "corpus": "corpus"} if _has_documents(recipe) else {}
    return inputs | {name: name for name in MODEL_NAMES if getattr(recipe, name) is not None}


def _pretrain_inputs(recipe: Recipe) -> dict[str, str]:
    inputs = {"tokens": "tokens", **_tokenizer_input(recipe)}
    return inputs | ({"base": "base"} if recipe.base is not None else {})


def _pretrain_config(recipe: Recipe) -> Any:
    return recipe.pretrain and pretrain.PretrainInputs(model=recipe.model, pretrain=recipe.pretrain)


def _pretrain_outside(recipe: Recipe) -> Outside:
    curriculum = None if recipe.pretrain is None else recipe.pretrain.curriculum
    if curriculum is None:
        return Outside(None, {})
    digest = _model_digest(curriculum.scorer)
    return _outside(digest, {"curriculum.scorer": (curriculum.scorer, digest)})


def _evaluate_config(recipe: Recipe) -> evaluate.EvaluateInputs:
    data = None if recipe.finetune is None else recipe.finetune.data
    return evaluate.EvaluateInputs(evaluate=recipe.evaluate or evaluate.EvaluateConfig(), finetune_data=data)


def _finetune_outside(recipe: Recipe) -> Outside:
    config = recipe.finetune
    if config is None:
        return Outside(None, {})
    data, test = _file_digest(config.data), _file_digest(config.test)
    named = {"data": (config.data, data), "test": (config.test, test)}
    if config.replay_from is None:
        return _outside([data, test], named)
    replay = _file_digest(f"{config.replay_from}/index.json")
    return _outside([data, test, replay], {**named, "replay_from": (config.replay_from, replay)})


def _evaluate_outside(recipe: Recipe) -> Outside:
    config = _evaluate_config(recipe)
    paths = {"answers": config.evaluate.answers, "references": config.evaluate.references}
    paths["finetune.data"] = config.finetune_data
    named = {name: (path, _file_digest(path)) for name, path in paths.items()}
    return _outside([digest for _, digest in named.values()], named)


def _corpus_outside(recipe: Recipe) -> Outside:
    sets = recipe.clean.decontaminate.sets
    named = {f"decontaminate.sets.{number}": (path, _file_digest(path)) for number, path in enumerate(sets)}
    return _outside([digest for _, digest in named.values()] or None, named)


def _file_digest(path: str | None) -> str | None:
    return storage.digest_file(Path(path)) if path is not None and Path(path).is_file() else None


STAGES = (
    Stage(
        name="documents",
        version=1,
        command="collect",
        wanted=_has_documents,
        inputs=lambda recipe: {},  # noqa: ARG005
        config=lambda recipe: recipe.collect,
        run=collect.run,
        outside=lambda recipe: Outside(None if recipe.collect is None else collect.fingerprint(recipe.collect), {}),
    ),
    Stage(
        name="corpus",
        version=3,
        command="clean",
        wanted=_has_documents,
        inputs=lambda recipe: {"documents": "documents"},  # noqa: ARG005
        config=lambda recipe: recipe.clean,
        run=clean_stage.run,
        outside=_corpus_outside,
    ),
    Stage(
        name="tokenizer",
        version=2,
        command="tokenize",
        wanted=lambda recipe: _has_documents(recipe) and recipe.base is None,
        inputs=lambda recipe: {"corpus": "corpus"},  # noqa: ARG005
        config=_tokenizer_config,
        run=tokens.run_tokenizer,
    ),
    Stage(
        name="tokens",
        version=3,
        command="tokenize",
        wanted=_has_documents,
        inputs=lambda recipe: {"corpus": "corpus", **_tokenizer_input(recipe)},
        config=lambda recipe: None,  # noqa: ARG005
        run=tokens.run_tokens,
    ),
    Stage(
        name="pretrain",
        version=1,
        command="pretrain",
        wanted=lambda recipe: recipe.pretrain is not None,
        inputs=_pretrain_inputs,
        config=_pretrain_config,
        run=pretrain.run,
        outside=_pretrain_outside,
    ),
    Stage(
        name="finetune",
        version=1,
        command="finetune",
        wanted=lambda recipe: recipe.finetune is not None,
        inputs=_finetune_inputs,
        config=lambda recipe: recipe.finetune,
        run=finetune.run,
        outside=_finetune_outside,
    ),
    Stage(
        name="reward",
        version=1,
        command="reward",
        wanted=lambda recipe: recipe.reward is not None,
        inputs=lambda recipe: {"base": _newest_model(recipe, "finetune", "pretrain")},
        config=lambda recipe: recipe.reward,
        run=reward_stage.run,
        outside=_reward_outside,
    ),
    Stage(
        name="align",
        version=2,
        command="align",
        wanted=lambda recipe: recipe.align is not None,
        inputs=_align_inputs,
        config=lambda recipe: recipe.align,
        run=align.run,
        outside=_align_outside,
    ),
    Stage(
        name="distill",
        version=2,
        command="distill",
        wanted=lambda recipe: recipe.distill is not None,
        inputs=_distill_inputs,
        config=lambda recipe: recipe.distill,
        run=distill.run,
        outside=_distill_outside,
    ),
    Stage(
        name="evaluate",
        version=6,
        command="evaluate",
        wanted=lambda recipe: (
            recipe.evaluate is not None and bool(_evaluate_inputs(recipe).keys() & MODEL_NAMES.keys())
        ),
        inputs=_evaluate_inputs,
        config=_evaluate_config,
        run=evaluate.run,
        outside=_evaluate_outside,
        published=evaluate.keep_records,
    ),
)


def stages_of(recipe: Recipe) -> list[Stage]:
    """The stages that a recipe asks for, in order."""
    return [stage for stage in STAGES if stage.wanted(recipe)]
