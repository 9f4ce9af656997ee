"""A round of the loop: gather, learn, judge, publish, promote. Each step is whole or not there; a kill loses one step.

A round leaves `round-NNNN/` in the run: the model if it was promoted, the test's figures, the data card, and the names
of the opinions that it learned from. No text that a person wrote stays there.
"""

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from chatwright.feedback.conversations import read_conversations
from chatwright.feedback.database import require_store
from chatwright.feedback.importing import import_study
from chatwright.feedback.ratings import Study
from chatwright.feedback.store import FeedbackStore
from chatwright.foundation import storage
from chatwright.foundation.console import duration, say
from chatwright.foundation.errors import DataError, UsageError
from chatwright.foundation.masking import without_secrets
from chatwright.foundation.stage import StageContext
from chatwright.foundation.stopping import StopFlag, stop_requested
from chatwright.foundation.streams import seed_for
from chatwright.model.directory import load_model
from chatwright.model.prompts import ChatEncoder
from chatwright.recipe.improve import gather as gathering
from chatwright.recipe.improve import judging, unfinished
from chatwright.recipe.improve.gather import CARD, LEARNED, Gathered, missing_for, objective_of
from chatwright.recipe.improve.service import RECIPE, Service, promote, read_service, roll_back
from chatwright.recipe.improve.settings import ImproveConfig
from chatwright.recipe.recipe import Recipe, load_recipe
from chatwright.tokens.shards import TokenData
from chatwright.tune import finetune
from chatwright.tune.chats import fits
from chatwright.tune.preferences import align
from chatwright.tune.preferences.harvest import questions_of

REPORT = "report.json"
STUDY = "ratings.sqlite"  # of the page for raters
_VERSION = 1


class Round(NamedTuple):
    """A round that is over."""

    number: int
    directory: Path
    report: dict[str, Any]

    @property
    def is_promoted(self) -> bool:
        """Whether its model passed the test."""
        return bool(self.report["verdict"] == "promoted")


class Outcome(NamedTuple):
    """What a call came to."""

    state: str  # "promoted", "refused", "waiting" (too little new feedback), "rolled back"
    service: Service
    told: dict[str, Any]


class _Place(NamedTuple):
    """Where a round works, and on what."""

    run_dir: Path
    recipe: Recipe
    number: int
    work: Path
    service: Service
    stop: StopFlag

    @property
    def seed(self) -> int:
        return seed_for(self.recipe.seed, "improve", self.number) % (1 << 31)


def improve(run_dir: Path, *, store: str, overrides: tuple[str, ...] = (), only_plan: bool = False) -> Outcome:
    """Do the next round of a run, or go on with the one that was interrupted.

    Args:
        run_dir: the run's folder.
        store: the feedback database where the recipe names none.
        overrides: of the recipe, as KEY=VALUE.
        only_plan: say what the round would learn from, and do nothing.

    Raises:
        UsageError: no run, no model, no store.
        BusyError: another process works on the run.
        StoppedError: a stop was asked for; the same call goes on from there.
    """
    recipe = load_recipe(_recipe_path(run_dir), overrides)
    place = recipe.improve.store or store
    require_store(place)
    with stop_requested() as stop, storage.exclusive(run_dir):
        storage.recover(run_dir)
        settled = None if only_plan else _settle(run_dir)
        if settled is not None:
            return settled
        number = 1 + max((found.number for found in rounds_of(run_dir)), default=0)
        at = _Place(run_dir, recipe, number, unfinished.work_of(run_dir, number), read_service(run_dir), stop)
        return _plan(at, place) if only_plan else _do(at, place)


def _recipe_path(run_dir: Path) -> Path:
    path = run_dir / RECIPE
    if not path.is_file():
        raise UsageError(f"`{run_dir}` is not a run: it has no `{RECIPE}`", hint="name a folder such as `runs/demo`")
    return path


def _settle(run_dir: Path) -> Outcome | None:
    """A round that passed, but whose model was not put into service before a kill, is put there now."""
    late = [found for found in rounds_of(run_dir) if found.is_promoted]
    service = read_service(run_dir)
    if not late or late[-1].number in service.ever:
        return None
    service = promote(run_dir, late[-1].number)
    unfinished.discard(run_dir)
    return Outcome("promoted", service, late[-1].report)


def rounds_of(run_dir: Path) -> list[Round]:
    """The rounds of a run, oldest first."""
    found = []
    for directory in sorted(run_dir.glob("round-[0-9]*")):
        if (directory / storage.MANIFEST).is_file():
            number = int(directory.name.removeprefix("round-"))
            found.append(Round(number, directory, storage.read_json(directory / REPORT)))
    return found


def learned_from(run_dir: Path, answer_ids: set[str]) -> list[int]:
    """The rounds that learned from, or were tested on, any of these answers."""
    return [
        found.number
        for found in rounds_of(run_dir)
        if answer_ids.intersection(storage.read_json(found.directory / LEARNED)["answers"])
    ]


def back(run_dir: Path) -> Outcome:
    """Put the model before the present one into service again."""
    _recipe_path(run_dir)
    with storage.exclusive(run_dir):
        left = read_service(run_dir).now
        service = roll_back(run_dir)
        unfinished.discard(run_dir)  # it began with the model that was left, and goes on with no other
    return Outcome("rolled back", service, {"from": left.model, "to": service.now.model})


def _entries(at: _Place, store: str) -> list[dict[str, Any]]:
    with contextlib.closing(FeedbackStore(store)) as opened:
        _take_in_ratings(at.run_dir, opened)
        return list(opened.export(rated_only=True))


def _gather(at: _Place, entries: list[dict[str, Any]], tests: frozenset[str]) -> tuple[Gathered, Any]:
    config = at.recipe.improve
    _require_no_larger_share(at.run_dir, config)
    learned, set_aside = _used(at.run_dir, at.service)
    return gathering.gather(entries, config, learned=learned, set_aside=set_aside, test_prompts=tests)


def _take_in_ratings(run_dir: Path, store: FeedbackStore) -> None:
    """What people said on the run's page for raters comes into the store, once."""
    if not (run_dir / STUDY).is_file():
        return
    with contextlib.closing(Study(run_dir / STUDY)) as study:
        found = import_study(store, study.export())
    if found.opinions:
        say(f"  {found.opinions} opinions from the page for raters are new in the store")


def _require_no_larger_share(run_dir: Path, config: ImproveConfig) -> None:
    """A larger share would hold out questions that were learned from already."""
    shares = [found.report["heldout_share"] for found in rounds_of(run_dir)]
    if shares and config.heldout_share > min(shares):
        raise UsageError(
            f"`improve.heldout_share` was {min(shares)} in an earlier round and is {config.heldout_share} now",
            cause="questions that were learned from would be held out",
            hint=f"leave it at {min(shares)} or less",
        )


def _used(run_dir: Path, service: Service) -> tuple[frozenset[str], frozenset[str]]:
    """Names of opinions that the model in service knows, and of those that were set aside with their round."""
    learned: set[str] = set()
    set_aside: set[str] = set()
    for found in rounds_of(run_dir):
        names = storage.read_json(found.directory / LEARNED)["opinions"]
        (learned if found.number in service.rounds else set_aside).update(names)
    return frozenset(learned), frozenset(set_aside - learned)


def _test_prompts(recipe: Recipe) -> frozenset[str]:
    """Questions on which models of this recipe are tested."""
    places = [recipe.evaluate.answers if recipe.evaluate else None, recipe.finetune.test if recipe.finetune else None]
    found = {path for path in places if path is not None and Path(path).is_file()}
    return frozenset().union(*(questions_of(c.messages for c in read_conversations(Path(path))) for path in found))


def _plan(at: _Place, store: str) -> Outcome:
    gathered, _ = _gather(at, _entries(at, store), _test_prompts(at.recipe))
    told = {"round": at.number, "begins_with": at.service.now.model, **_brief(gathered)}
    missing = missing_for(gathered, at.recipe.improve)
    told |= {"objective": None if missing else objective_of(gathered, at.recipe.improve), **missing}
    return Outcome("waiting" if missing else "planned", at.service, told)


def _brief(gathered: Gathered) -> dict[str, Any]:
    return {name: value for name, value in gathered.facts.items() if name not in ("opinions", "answers")}


def _do(at: _Place, store: str) -> Outcome:
    began = time.monotonic()
    waiting = _freeze(at, store)
    if waiting is not None:
        return waiting
    gathered = gathering.read_frozen(unfinished.feedback_of(at.work))
    say(f"round {at.number}: {_introduction(gathered)}")
    at.stop.check("the feedback of the round")
    try:
        made, learning = _learn(at, gathered)
    except DataError:
        shutil.rmtree(at.work, ignore_errors=True)  # frozen, it would fail again whatever people say from now on
        raise
    at.stop.check("the new model")
    report = {
        "round": at.number,
        "feedback": _brief(gathered),
        "heldout_share": at.recipe.improve.heldout_share,
        "began_with": at.service.now._asdict(),
        **_judged(at, gathered, made),
        "learning": learning,
        "seconds": round(time.monotonic() - began, 1),
    }
    final = _publish(at, made, report)
    shutil.rmtree(at.work, ignore_errors=True)
    service = promote(at.run_dir, at.number) if report["verdict"] == "promoted" else at.service
    say(f"  round {at.number} {report['verdict']} after {duration(time.monotonic() - began)}: {final}")
    return Outcome(report["verdict"], service, report)


def _freeze(at: _Place, store: str) -> Outcome | None:
    """Make sure of the round's feedback, from before a kill if it still stands; an outcome if it is too little."""
    frozen, config = unfinished.feedback_of(at.work), at.recipe.improve
    unfinished.discard(at.run_dir, but=at.work)
    entries, tests = _entries(at, store), _test_prompts(at.recipe)
    foundation = unfinished.foundation_of(config, base=at.service.now.digest, seed=at.seed, tests=tests)
    opinions = gathering.usable_opinions(entries)
    if frozen.is_dir():
        reason = unfinished.why_not_to_go_on(at.work, foundation, opinions)
        if reason is None:
            return None
        say(f"  round {at.number} begins anew: {reason}")
    shutil.rmtree(at.work, ignore_errors=True)
    gathered, found = _gather(at, entries, tests)
    missing = missing_for(gathered, config)
    if missing:
        return Outcome("waiting", at.service, {**_brief(gathered), **missing})
    for topic in gathered.facts["weak_topics"]:
        say(f"  weak: {topic['down']} of {topic['thumbs']} thumbs are down, like: {topic['like']}")
    with storage.publish(frozen, foundation) as scratch:
        gathering.write(gathered, found, config, scratch)
        unfinished.write_used(scratch, opinions)
    return None


def _introduction(gathered: Gathered) -> str:
    train, held = gathered.facts["train"], gathered.facts["heldout"]
    return (
        f"{train['pairs']} pairs ({train['edits']} of them corrected answers) and {train['thumbs']} thumbs to learn "
        f"from, {held['pairs']} and {held['thumbs']} held out"
    )


def _learn(at: _Place, gathered: Gathered) -> tuple[Path, dict[str, Any]]:
    """The new model: corrected answers first, where there are enough, then preferences."""
    config, frozen = at.recipe.improve, unfinished.feedback_of(at.work)
    base = at.service.path(at.run_dir)
    learning: dict[str, Any] = {"begins_with": at.service.now.model}
    if gathered.facts["train"]["edits"] >= config.edits.least:
        edits, left_out = _edits_that_fit(frozen / "edits.jsonl", base)
        if len(edits) >= config.edits.least:
            (at.work / "edits.jsonl").write_text("\n".join(edits), encoding="utf-8")
            corrected = config.edits.as_finetune(config.learn, data=str(at.work / "edits.jsonl"))
            base = _stage(at, "edits", finetune.run, corrected, base)
            learning["edits"] = _figures(base.parent, ("steps", "forgetting")) | {"left_out": left_out}
    objective = objective_of(gathered, config)
    heldout = frozen / "heldout.jsonl"
    settings = config.learn.as_align(
        objective, data=str(frozen / "train.jsonl"), test=str(heldout) if heldout.is_file() else None
    )
    made = _stage(at, "align", align.run, settings, base)
    keys = ("objective", "steps", "rows", "divergence_nats", "dropped", "evaluation")
    return made, {**learning, **_figures(made.parent, keys)}


def _edits_that_fit(path: Path, base: Path) -> tuple[list[str], int]:
    """Lines of corrected answers that the model can read whole, and how many are left out: one must not end a round."""
    model = load_model(base)
    encoder, length = ChatEncoder(model.tokenizer), model.network.config.context_length
    known, lines = read_conversations(path), path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    fitting = [line for one, line in zip(known, lines, strict=True) if fits(one, encoder, context_length=length)]
    return fitting, len(known) - len(fitting)


def _figures(directory: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    report = storage.read_json(directory / REPORT)
    return {key: report[key] for key in keys if key in report}


def _stage(at: _Place, name: str, run: Callable[[StageContext], Any], settings: Any, base: Path) -> Path:
    """Do one training of the round, unless it was done before a kill; returns its model."""
    output = at.work / name
    if not (output / REPORT).is_file():  # written last
        output.mkdir(parents=True, exist_ok=True)
        tokens = {"tokens": at.run_dir / "tokens"} if (at.run_dir / "tokens").is_dir() else {}
        inputs = {"base": base, **tokens}
        run(
            StageContext(
                config=settings, inputs=inputs, output=output, seed=at.seed, lineage=_lineage(at), stop=at.stop
            )
        )
    return output / "model"


def _lineage(at: _Place) -> dict[str, Any]:
    """What the model says of itself: the round, the model before it, and the feedback by its digest."""
    learned = storage.read_manifest(unfinished.feedback_of(at.work)).files[LEARNED]["sha256"]
    place = at.service.now.model
    stage = at.run_dir / place.split("/", maxsplit=1)[0]
    known = not Path(place).is_absolute() and (stage / storage.MANIFEST).is_file()
    content = storage.read_manifest(stage).content if known else at.service.now.digest
    inputs = {"base": {"path": place, "content": content}}
    return {
        "stage": f"round-{at.number:04}",
        "run": at.recipe.name,
        "inputs": inputs,
        "feedback": {"learned_sha256": learned},
    }


def _judged(at: _Place, gathered: Gathered, made: Path) -> dict[str, Any]:
    tokens = at.run_dir / "tokens"
    data = TokenData(tokens) if tokens.is_dir() else None
    first = at.service.before[0] if at.service.before else at.service.now
    paths = (made, at.service.path(at.run_dir), at.run_dir / first.model)
    found = judging.measure_both(paths, gathered, at.recipe, data=data)
    checks = judging.judge(found, gathered, at.recipe.improve.promote)
    for check in checks:
        say(f"  {'passed' if check.passed else 'failed'}: {check.name}: {check.told}")
    return {
        "verdict": "promoted" if all(check.passed for check in checks) else "refused",
        "checks": [check._asdict() for check in checks],
        "measured": {
            name: None if value is None else value._asdict() for name, value in zip(found._fields, found, strict=True)
        },
    }


def _publish(at: _Place, made: Path, report: dict[str, Any]) -> Path:
    """The round as it stays: a refused model is not kept, so that nothing can serve it."""
    result, final = at.work / "result", at.run_dir / f"round-{at.number:04}"
    shutil.rmtree(result, ignore_errors=True)
    result.mkdir()
    storage.write_json(result / REPORT, report)
    for name in (CARD, LEARNED):
        shutil.copyfile(unfinished.feedback_of(at.work) / name, result / name)
    if (made.parent / "metrics.jsonl").is_file():
        shutil.copyfile(made.parent / "metrics.jsonl", result / "metrics.jsonl")
    if report["verdict"] == "promoted":
        shutil.copytree(made, result / "model")
    facts = {
        "stage": final.name,
        "version": _VERSION,
        "run": at.recipe.name,
        "inputs": _lineage(at)["inputs"],
        "config": without_secrets(at.recipe.improve.model_dump(mode="json")),
        "seed": at.seed,
        "seconds": report["seconds"],
        "summary": {key: report[key] for key in ("round", "verdict", "feedback", "learning", "checks")},
    }
    storage.finish(result, final, facts)
    return final
