"""A recipe: one TOML file that describes a model's whole life, and the rules that hold between its sections."""

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import Field

from chatwright.data.clean import CleanConfig
from chatwright.data.collect import CollectConfig
from chatwright.evaluate.stage import EvaluateConfig
from chatwright.foundation import config as configuration
from chatwright.foundation.config import Config
from chatwright.foundation.errors import ConfigError, UsageError
from chatwright.foundation.masking import without_secrets
from chatwright.model.config import ModelConfig
from chatwright.recipe.improve.settings import ImproveConfig
from chatwright.tokens.tokenizer import TokenizerConfig
from chatwright.train.pretrain import PretrainConfig
from chatwright.tune.distill.settings import DistillConfig
from chatwright.tune.finetune_settings import FinetuneConfig
from chatwright.tune.preferences.reward_stage import RewardTrainingConfig
from chatwright.tune.preferences.settings import AlignConfig


class BaseConfig(Config):
    """A model to begin from, instead of fresh weights."""

    model: str  # a Hugging Face directory


class ServeConfig(Config):
    """What the chat page says and offers."""

    title: str = "chatwright"
    greeting: str = "Ask the model something."
    starters: tuple[str, ...] = ()  # questions to begin with
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=256, ge=1)


class Recipe(Config):
    """Everything that a run depends on. Absent sections are stages that the run does without."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")  # also the run's folder
    seed: int = Field(default=1, ge=0, lt=1 << 31)
    runs: str = "runs"  # folder for the run's folder, from where the command is called
    workers: int = Field(default=0, ge=0)  # processes for data; 0: one a core
    engine: Literal["local", "ray"] = "local"  # for data; ray needs the extra and storage that all machines share
    base: BaseConfig | None = None
    collect: CollectConfig | None = None
    clean: CleanConfig = CleanConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig | None = None
    finetune: FinetuneConfig | None = None
    reward: RewardTrainingConfig | None = None
    align: AlignConfig | None = None
    distill: DistillConfig | None = None
    evaluate: EvaluateConfig | None = None
    improve: ImproveConfig = ImproveConfig()
    serve: ServeConfig = ServeConfig()

    def problems(self) -> Iterator[str]:
        """Rules between sections."""
        if self.collect is None and self.base is None:
            yield "a recipe needs documents (`[[collect.sources]]`) or a model to begin from (`[base]`)"
        if self.pretrain is not None and self.collect is None:
            yield "`pretrain` needs documents: add `[[collect.sources]]`"
        if self.finetune is not None and self.pretrain is None and self.base is None:
            yield "`finetune` needs a model: add `[pretrain]`, or `[base]` with `model`"
        if self.finetune is not None and self.finetune.replay_from is not None and self.collect is not None:
            yield "`finetune.replay_from` has no effect with documents of the recipe's own: they are replayed"
        yield from self._problems_of_improving()
        if self.evaluate is not None and self.pretrain is None and self.finetune is None:
            yield "`evaluate` has no model of this run to measure: add `[pretrain]` or `[finetune]`"
        if self.base is not None:
            sections = (("tokenizer", self.tokenizer != TokenizerConfig()), ("model", self.model != ModelConfig()))
            yield from (
                f"`{name}` has no effect with `base`, which brings its own" for name, is_set in sections if is_set
            )
        if self.collect is None and self.clean != CleanConfig():
            yield "`clean` has no effect without documents: add `[[collect.sources]]`"
        rows = None if self.pretrain is None else self.pretrain.micro_rows
        if self.pretrain is not None and isinstance(rows, int) and self.pretrain.batch_rows % rows:
            yield (
                "`pretrain.batch_rows` must be a multiple of `pretrain.micro_rows`: "
                f"{self.pretrain.batch_rows} and {rows}"
            )

    def _problems_of_improving(self) -> Iterator[str]:
        has_model = self.pretrain is not None or self.base is not None
        for name in ("reward", "align"):
            if getattr(self, name) is not None and not has_model:
                yield f"`{name}` needs a model: add `[pretrain]`, or `[base]` with `model`"
        if self.distill is not None and self.distill.teacher is None and not has_model:
            yield "`distill` needs a teacher: add `distill.teacher`, `[pretrain]`, or `[base]` with `model`"
        if self.distill is not None and self.distill.data is None and self.collect is None:
            yield "`distill` has nothing to learn from: add `[[collect.sources]]`, or `distill.data`"

    @property
    def run_dir(self) -> Path:
        """Where this recipe's results are."""
        return Path(self.runs) / self.name


# Keys that name files; in a recipe they are meant from the recipe's own folder. `*`: each entry of a list.
_PATH_KEYS = (
    "base.model",
    "collect.sources.*.path",
    "collect.sources.*.prefix",
    "clean.decontaminate.sets.*",
    "pretrain.curriculum.scorer",
    "finetune.data",
    "finetune.test",
    "finetune.replay_from",
    "reward.data",
    "reward.test",
    "align.data",
    "align.test",
    "align.rewards.*.model",
    "distill.data",
    "distill.teacher",
    "distill.begin",
    "evaluate.answers",
    "evaluate.references",
)


# Keys that trainings without a held-out loss once had and could not keep. Resolved recipes of that time have them
# written out with these values; any other value is told what to set instead.
_FORMER: dict[str, Any] = {"patience": 0, "keep_best": False}
_INSTEAD = {
    "finetune": "`finetune.keeping.patience` ends a fine-tune and keeps its best model",
    "reward": "it measures no held-out bits per byte",
    "align": "it measures no held-out bits per byte",
    "improve.learn": "a round is judged by its test",
}


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Raises:
        ConfigError: all of its problems at once.
        UsageError: no such file, or not TOML.
    """
    data = configuration.apply_overrides(configuration.read_toml(path), overrides)
    _forget_former_keys(data, where=f"recipe `{path}`")
    _ask_test_questions(data)
    whole = _with_full_paths(data, path.resolve().parent, where=f"recipe `{path}`")
    return configuration.validate(Recipe, whole, where=f"recipe `{path}`")


def _ask_test_questions(data: dict[str, Any]) -> None:
    """Where nothing else is named, the questions that a fine-tune tests with are asked in the evaluation, too."""
    tuned, evaluated = data.get("finetune"), data.get("evaluate")
    if isinstance(tuned, dict) and isinstance(evaluated, dict) and "test" in tuned:
        evaluated.setdefault("answers", tuned["test"])


def _forget_former_keys(data: dict[str, Any], *, where: str) -> None:
    """Take former keys out of the sections that had them, and refuse those that were meant to do something."""
    problems = []
    for section, instead in _INSTEAD.items():
        table: Any = data
        for step in section.split("."):
            table = table.get(step) if isinstance(table, dict) else None
        if not isinstance(table, dict):
            continue
        for key, default in _FORMER.items():
            if key in table and table.pop(key) != default:
                problems.append(f"`{section}.{key}` is a key no more: {instead}")
    if problems:
        raise ConfigError(where, problems)


def _with_full_paths(data: dict[str, Any], folder: Path, *, where: str) -> dict[str, Any]:
    """The same with relative paths made whole, so that a run does not depend on where it is called from."""
    problems = []
    for name, table, key in (place for path_key in _PATH_KEYS for place in _places(data, path_key.split("."))):
        try:
            table[key] = _whole(table[key], folder)
        except UsageError as error:
            problems.append(f"`{name}`: {error.what}; {error.hint}")
    if problems:
        raise ConfigError(where, problems)
    return data


def _places(value: Any, steps: Sequence[str], name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each text that a key leads to: its whole key, the table or list in which it stands, and its place there."""
    step, *rest = steps
    if step == "*":
        keys: Sequence[Any] = range(len(value)) if isinstance(value, list) else ()
    else:
        keys = [step] if isinstance(value, dict) and step in value else ()
    for key in keys:
        whole = f"{name}.{key}" if name else str(key)
        if rest:
            yield from _places(value[key], rest, whole)
        elif isinstance(value[key], str):
            yield whole, value, key


def _whole(text: str, folder: Path) -> str:
    if not text or "://" in text:
        return text
    try:
        return str((folder / configuration.path_of(text)).resolve())
    except RuntimeError:
        raise UsageError(f"`{text}` leads in a circle of links", hint="name the folder or the file itself") from None


def serve_section_of(model: Path) -> ServeConfig:
    """The `serve` section of the run that a model directory stands in, or the defaults where it stands alone."""
    path = model.resolve().parent.parent / "recipe.toml"
    if not path.is_file():
        return ServeConfig()
    section = configuration.read_toml(path).get("serve", {})
    return configuration.validate(ServeConfig, section, where=f"`serve` of `{path}`")


def to_toml(recipe: Recipe) -> str:
    """The recipe as resolved, every default written out; what is absent stays absent."""
    return tomli_w.dumps(_without_none(recipe.model_dump(mode="json")))


def write_toml(path: Path, text: str) -> None:
    """Write a recipe; where an address in it carries a password or a key, nobody but its owner may read the file."""
    data = tomllib.loads(text)
    if without_secrets(data) != data:
        path.touch()
        path.chmod(0o600)
    path.write_text(text, encoding="utf-8")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value
