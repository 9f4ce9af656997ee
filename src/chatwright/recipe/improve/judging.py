"""A new model against the one in service: held-out feedback, tasks, perplexity and forgetting, and the stated test.

A model wins a held-out pair if, from the one model to the other, the preferred answer gained more log-probability than
the rejected one did; where people gave thumbs only, of a good and a bad answer the good one has to gain more. The share
of wins has a percentile interval by bootstrap over questions (Efron and Tibshirani 1993, chapter 13), since answers to
one question are not independent.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chatwright.evaluate.answers import Answered, ask, references_by_label, score
from chatwright.feedback.conversations import Conversation, Message, read_conversations
from chatwright.model.chat import ChatModel, load
from chatwright.recipe.improve.gather import Gathered, verdict_couples
from chatwright.recipe.improve.settings import PromotionConfig
from chatwright.recipe.recipe import Recipe
from chatwright.tokens.shards import TokenData
from chatwright.tune.forgetting import heldout_bits
from chatwright.tune.preferences.harvest import normalised
from chatwright.tune.preferences.pairs import Preferences
from chatwright.tune.preferences.source import encode_answer, sums_of

_MAX_COUPLES = 20_000
_ROWS = 16  # answers read at once
_CONTRADICTS = ". The new feedback contradicts what people said before"
_CHUNK = 256  # draws of the bootstrap at once


class Share(NamedTuple):
    """How much of a held-out set was won."""

    share: float
    low: float
    high: float
    comparisons: int
    questions: int


class Check(NamedTuple):
    """One condition of the test."""

    name: str
    passed: bool
    told: str  # the figures, for people


class Figures(NamedTuple):
    """What is measured of one model alone."""

    bits: dict[str, float]  # per byte of held-out documents, by domain
    right: float | None  # share of test questions
    questions: int


class _Outcome(NamedTuple):
    first: int  # number of the question
    second: int  # of the other answer's question
    weight: float
    won: float  # 1, 0, or 0.5 for a tie


def measure(model: ChatModel, tasks: "Tasks", data: TokenData | None, *, tokens_per_domain: int) -> Figures:
    """Bits per byte of held-out documents, and right answers to test questions."""
    begin = model.tokenizer.begin_of_text
    bits = heldout_bits(model.network, data, begin=begin, tokens_per_domain=tokens_per_domain)
    right = tasks.share_right(model) if tasks.questions else None
    return Figures(bits, right, len(tasks.questions))


class Tasks(NamedTuple):
    """Test questions of the recipe, and the answers that their labels stand for."""

    questions: list[Conversation]
    references: dict[str, str]
    max_tokens: int

    def share_right(self, model: ChatModel) -> float:
        """Of answers that state the right label, or equal one of the right answers where there are no labels."""
        given: list[Answered] = ask(model, self.questions, max_tokens=self.max_tokens)
        found = score(given, self.references)
        return float(found["right"] if "right" in found else found["exact"])


def tasks_of(recipe: Recipe, config: PromotionConfig) -> Tasks:
    """The recipe's test questions, at most `task_questions`, spread evenly over the file."""
    place = recipe.evaluate.answers if recipe.evaluate is not None else None
    if place is None or not Path(place).is_file():
        return Tasks([], {}, 1)
    assert recipe.evaluate is not None  # noqa: S101 - it has answers
    questions = read_conversations(Path(place))
    step = max(1, -(-len(questions) // config.task_questions))
    labelled = recipe.evaluate.references or (recipe.finetune.data if recipe.finetune is not None else None)
    known = labelled is not None and Path(labelled).is_file()
    references = references_by_label(read_conversations(Path(str(labelled)))) if known else {}
    return Tasks(questions[::step], references, recipe.evaluate.max_answer_tokens)


def won(new: ChatModel, old: ChatModel, part: Preferences, *, config: PromotionConfig) -> Share | None:
    """The share of feedback that the new model won; None where it is too little to tell."""
    outcomes, questions = _of_pairs(new, old, part)
    if not _suffices(outcomes, config):
        outcomes, questions = _of_verdicts(new, old, part)
    if not _suffices(outcomes, config):
        return None
    return bootstrap(outcomes, questions, confidence=config.confidence, draws=config.draws)


def taught(
    new: ChatModel, old: ChatModel, first: ChatModel, part: Preferences, *, config: PromotionConfig
) -> Share | None:
    """Of the preferred answers that earlier rounds made likelier than in the first model, the share that still is.

    Comparisons within a pair miss a model that has left both answers behind for a third, which a poisoned round can
    teach (`docs/log.md`). None where too few answers have become likelier to tell.
    """
    chosen = [(pair.messages, pair.chosen) for pair in part.pairs]
    chosen += [(verdict.messages, verdict.answer) for verdict in part.verdicts if verdict.is_good]
    weights = [pair.weight for pair in part.pairs] + [verdict.weight for verdict in part.verdicts if verdict.is_good]
    seen: dict[str, int] = {}
    outcomes = []
    for (messages, _), weight, scores in zip(chosen, weights, _scores((new, old, first), chosen), strict=True):
        if scores is not None and scores[1] > scores[2]:
            number = _number(messages[-1].content, seen)
            outcomes.append(_Outcome(number, number, weight, _outcome(scores[0] - scores[2])))
    if not _suffices(outcomes, config):
        return None
    return bootstrap(outcomes, len(seen), confidence=config.confidence, draws=config.draws)


def least_questions(config: PromotionConfig) -> int:
    """Questions below which no share can be told from one half, even if each of them is won.

    By the sign test, two-sided: all of n alike have a chance of 2 in 2^n. The bootstrap does not know it: of one
    question it draws the same again and again, and has an interval of nothing.
    """
    return math.ceil(math.log2(2 / (1 - config.confidence)))


def _suffices(outcomes: Sequence[_Outcome], config: PromotionConfig) -> bool:
    questions = {number for one in outcomes for number in (one.first, one.second)}
    return len(outcomes) >= config.least_heldout and len(questions) >= least_questions(config)


def _gains(new: ChatModel, old: ChatModel, answers: Sequence[tuple[tuple[Message, ...], str]]) -> list[float | None]:
    """Nats that each answer gained from the old model to the new one; None for what does not fit the context."""
    return [None if scores is None else scores[0] - scores[1] for scores in _scores((new, old), answers)]


def _scores(
    models: Sequence[ChatModel], answers: Sequence[tuple[tuple[Message, ...], str]]
) -> list[tuple[float, ...] | None]:
    """The log-probability of each answer under each of the models; None for what does not fit the context."""
    encoded = [encode_answer(messages, text, models[0].encoder) for messages, text in answers]
    longest = models[0].context_length + 1
    fits = [place for place, one in enumerate(encoded) if len(one.prompt) + len(one.answer) <= longest]
    chosen = [encoded[place] for place in fits]
    scores: list[tuple[float, ...] | None] = [None] * len(answers)
    by_model = [sums_of(model.network, chosen, rows=_ROWS).tolist() for model in models] if chosen else []
    for place, values in zip(fits, zip(*by_model, strict=True), strict=True):
        scores[place] = values
    return scores


def _number(asked: str, seen: dict[str, int]) -> int:
    return seen.setdefault(normalised(asked), len(seen))


def _of_pairs(new: ChatModel, old: ChatModel, part: Preferences) -> tuple[list[_Outcome], int]:
    both = [(pair.messages, text) for pair in part.pairs for text in (pair.chosen, pair.rejected)]
    gains = _gains(new, old, both)
    seen: dict[str, int] = {}
    outcomes = []
    for pair, mine, other in zip(part.pairs, gains[::2], gains[1::2], strict=True):
        if mine is not None and other is not None:
            number = _number(pair.messages[-1].content, seen)
            outcomes.append(_Outcome(number, number, pair.weight, _outcome(mine - other)))
    return outcomes, len(seen)


def _of_verdicts(new: ChatModel, old: ChatModel, part: Preferences) -> tuple[list[_Outcome], int]:
    """Every good answer with every bad one, thinned evenly where they are too many."""
    gains = _gains(new, old, [(verdict.messages, verdict.answer) for verdict in part.verdicts])
    seen: dict[str, int] = {}
    numbers = [_number(verdict.messages[-1].content, seen) for verdict in part.verdicts]
    good, bad = verdict_couples(part.verdicts)
    step = max(1, len(good) * len(bad) // _MAX_COUPLES)
    outcomes = []
    for place in range(0, len(good) * len(bad), step):
        one, other = good[place // len(bad)], bad[place % len(bad)]
        mine, theirs = gains[one], gains[other]
        if mine is not None and theirs is not None:
            weight = part.verdicts[one].weight * part.verdicts[other].weight
            outcomes.append(_Outcome(numbers[one], numbers[other], weight, _outcome(mine - theirs)))
    return outcomes, len(seen)


def _outcome(margin: float) -> float:
    return 0.5 if margin == 0 else float(margin > 0)


def bootstrap(outcomes: Sequence[_Outcome], questions: int, *, confidence: float, draws: int, seed: int = 1) -> Share:
    """The weighted share of wins with its interval: questions are drawn with replacement, their comparisons with them.

    A comparison of answers to two questions counts as often as both were drawn.
    """
    first, second = (np.array([one[place] for one in outcomes]) for place in (0, 1))
    weight, result = (np.array([one[place] for one in outcomes], dtype=np.float64) for place in (2, 3))
    generator = np.random.Generator(np.random.PCG64(seed))
    shares: list[NDArray[np.float64]] = []
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        counts = generator.multinomial(questions, np.full(questions, 1 / questions), size=size)
        times = counts[:, first] * np.where(first == second, 1, counts[:, second]) * weight
        total = times.sum(axis=1)
        shares.append(np.divide(times @ result, total, out=np.full(size, 0.5), where=total > 0))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(shares), [tail, 1 - tail])
    share = float((weight * result).sum() / weight.sum())
    return Share(round(share, 5), round(float(low), 5), round(float(high), 5), len(outcomes), questions)


class Measured(NamedTuple):
    """Everything that the test looks at."""

    new: Figures
    old: Figures
    first: Figures  # of the model that the loop began with
    heldout: Share | None
    earlier: Share | None
    taught: Share | None


def measure_both(
    paths: tuple[Path, Path, Path], gathered: Gathered, recipe: Recipe, *, data: TokenData | None
) -> Measured:
    """Measure the new model, the one in service and the first one.

    Args:
        paths: new, in service, first.
        gathered: with the held-out feedback.
        recipe: names the tasks.
        data: the run's documents as tokens.
    """
    config = recipe.improve.promote
    tasks, tokens = tasks_of(recipe, config), recipe.improve.learn.heldout_tokens
    new, old = load(paths[0]), load(paths[1])
    first = old if paths[2] == paths[1] else load(paths[2])
    figures = [measure(model, tasks, data, tokens_per_domain=tokens) for model in (new, old)]
    begun = figures[1] if first is old else measure(first, tasks, data, tokens_per_domain=tokens)
    return Measured(
        figures[0],
        figures[1],
        begun,
        heldout=won(new, old, gathered.heldout, config=config),
        earlier=won(new, old, gathered.earlier, config=config),
        taught=taught(new, old, first, gathered.earlier, config=config),
    )


def judge(found: Measured, gathered: Gathered, config: PromotionConfig) -> list[Check]:
    """The conditions, all of which a new model must meet."""
    checks = [_wins(found.heldout, gathered, config)]
    if config.keeps_earlier:
        checks += [_keeps(found.earlier, config), _still_taught(found.taught, config)]
    for name, before, bound in (
        ("tasks", found.old, config.task_loss),
        ("tasks since the first model", found.first, config.task_loss_ever),  # else rounds lose a little each
    ):
        if found.new.right is not None and before.right is not None:
            told = (
                f"{before.right:.1%} to {found.new.right:.1%} of {found.new.questions} test questions right, at most "
                f"{bound:.1%} may be lost"
            )
            checks.append(Check(name, found.new.right - before.right >= -bound - 1e-9, told))
    if found.new.bits:
        for name, before, bound in (
            ("forgetting", found.old, config.forgetting),
            ("forgetting since the first model", found.first, config.forgetting_ever),
        ):
            lost = found.new.bits["all"] - before.bits["all"]
            told = f"{before.bits['all']:.3f} to {found.new.bits['all']:.3f} bits per byte of held-out documents, "
            checks.append(Check(name, lost <= bound, f"{told}at most {bound:+.3f} allowed"))
    return checks


def _wins(share: Share | None, gathered: Gathered, config: PromotionConfig) -> Check:
    name = "wins on held-out feedback"
    if share is None:
        part = gathered.heldout
        questions = len({normalised(messages[-1].content) for messages in part.conversations()})
        told = (
            f"{len(part.pairs)} pairs and {len(part.verdicts)} thumbs on {questions} questions are held out: too few "
            f"to tell; {config.least_heldout} comparisons on {least_questions(config)} questions are needed"
        )
        return Check(name, passed=False, told=told)
    told = f"won {_shown(share)}; the interval must lie above 50 %"
    return Check(name, share.low > 0.5, told + ("" if share.low > 0.5 else _why_not(share)))


def _why_not(share: Share) -> str:
    if share.high < 0.5:
        return ". The new model is further from what people prefer than the one in service"
    return (
        ". What was learned does not carry over to held-out questions: feedback that contradicts itself, or too little"
    )


def _keeps(share: Share | None, config: PromotionConfig) -> Check:
    """No loss on what was held out of earlier rounds, where a poisoned round shows. The new model has to prove it.

    Whether the model in service agrees with the new feedback would be no test: the answers are its own, and of those
    that it has come to write the bad ones have gained most (`docs/log.md`).
    """
    name = "keeps what earlier feedback taught"
    if share is None:
        return Check(name, passed=True, told="too little of earlier rounds is held out yet")
    least = 0.5 - config.earlier_loss
    passed = share.share >= least and share.high >= 0.5
    told = f"won {_shown(share)}; at least {least:.0%} are needed, and the interval must not lie below 50 %"
    return Check(name, passed, told + ("" if passed else _CONTRADICTS))


def _still_taught(share: Share | None, config: PromotionConfig) -> Check:
    name = "still gives the answers that earlier feedback taught"
    if share is None:
        return Check(name, passed=True, told="too few held-out answers have become likelier in earlier rounds")
    passed = share.high >= config.taught_kept
    told = (
        f"{share.share:.1%} of {share.comparisons} preferred answers that earlier rounds made likelier are still so "
        f"({share.low:.1%} to {share.high:.1%}); the interval must reach {config.taught_kept:.0%}"
    )
    return Check(name, passed, told + ("" if passed else _CONTRADICTS))


def _shown(share: Share) -> str:
    return (
        f"{share.share:.1%} of {share.comparisons} comparisons on {share.questions} questions "
        f"({share.low:.1%} to {share.high:.1%})"
    )
