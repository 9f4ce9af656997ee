"""Texts against references: BLEU, chrF and TER by sacreBLEU with its signatures, ROUGE-L, exact match, token F1.

Not for asking a model: whoever calls brings the answers. Every figure takes several references.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import sacrebleu
from sacrebleu.significance import PairedTest

from chatwright.evaluate.resampling import RESAMPLES, least_p_value, percentiles, resampled_sums
from chatwright.foundation.errors import UsageError
from chatwright.foundation.streams import seed_for

# Han, kana and Thai are written without spaces: each letter is a word there, as MLQA has it for Chinese (Lewis et al.
# 2020). A letter takes the marks that follow it along; a mark upon no letter is part of none.
_UNSPACED = "\u0e00-\u0e7f\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
_UNSPACED += "\U00020000-\U000323af"
_WORD = re.compile(rf"[{_UNSPACED}][^\w\s]*|(?:(?![{_UNSPACED}])\w[^\w\s]*)+")


def _metrics(references: Sequence[Sequence[str | None]] | None = None) -> dict[str, Any]:
    return {
        "bleu": sacrebleu.BLEU(references=references),
        "chrf": sacrebleu.CHRF(references=references),
        "ter": sacrebleu.TER(references=references),
    }


def text_scores(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """All figures of answers, each against its references.

    Args:
        answers: what was said.
        references: for each answer, one or more texts that would have been right.

    Raises:
        UsageError: numbers of answers and references differ, or an answer has no reference.
    """
    streams = reference_streams(answers, references)
    figures: dict[str, Any] = {"texts": len(answers)}
    for key, metric in _metrics().items():
        score = metric.corpus_score(list(answers), streams)
        figures[key] = round(score.score, 4)
        figures[f"{key}_signature"] = str(metric.get_signature())
    pairs = list(zip(answers, references, strict=True))
    figures["exact"] = _mean([any(same(answer, right) for right in several) for answer, several in pairs])
    figures["token_f1"] = _mean([max(token_f1(answer, right) for right in several) for answer, several in pairs])
    figures["rouge_l"] = _mean([max(rouge_l(answer, right) for right in several) for answer, several in pairs])
    return figures


def score_intervals(
    answers: Sequence[str], references: Sequence[Sequence[str]], *, seed: int = 1, resamples: int = RESAMPLES
) -> dict[str, list[float]]:
    """95 % intervals of BLEU, chrF and the words shared, by bootstrap over answers (Koehn 2004); one answer gives none.

    What sacreBLEU counts of each answer is drawn and added up; so nothing is matched twice. Every figure sees the
    same draws.

    Args:
        answers: what was said.
        references: for each answer, one or more texts that would have been right.
        seed: of the draws.
        resamples: draws.
    """
    if len(answers) < 2:
        return {}
    streams = reference_streams(answers, references)
    drawing = seed_for(seed, "bootstrap answers")
    found = {}
    for key, metric in _metrics().items():
        if key in ("bleu", "chrf"):
            counts = np.asarray(metric._extract_corpus_statistics(list(answers), streams), dtype=np.float64)
            sums = resampled_sums(counts, seed=drawing, resamples=resamples)
            scores = np.asarray([metric._compute_score_from_stats(list(row)).score for row in sums])
            found[f"{key}_95"] = percentiles(scores).rounded(4)
    pairs = zip(answers, references, strict=True)
    shared = [max(token_f1(answer, right) for right in several) for answer, several in pairs]
    means = resampled_sums(np.asarray(shared)[:, None], seed=drawing, resamples=resamples)[:, 0] / len(answers)
    return found | {"token_f1_95": percentiles(means).rounded(4)}


def reference_streams(answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """References as sacreBLEU takes them: a stream for the first of each answer, one for the second, and so on.

    Raises:
        UsageError: numbers differ, or an answer has no reference.
    """
    if len(answers) != len(references):
        raise UsageError(f"{len(answers)} answers cannot be scored against references for {len(references)}")
    without = next((number for number, several in enumerate(references) if not several), None)
    if without is not None:
        raise UsageError(f"answer {without + 1} has no reference")
    if not answers:
        raise UsageError("there is no answer to score")
    most = max(len(several) for several in references)
    return [[several[place] if place < len(several) else None for several in references] for place in range(most)]


class SystemScore(NamedTuple):
    """One system's figure in a comparison."""

    score: float
    mean: float  # of the resampled scores
    half_width: float  # of their 95 % interval
    p_value: float | None  # against the first system; None for the first itself, and of a single answer


def paired_bootstrap(
    systems: Mapping[str, Sequence[str]], references: Sequence[Sequence[str]], *, resamples: int = RESAMPLES
) -> dict[str, dict[str, SystemScore]]:
    """Whether systems differ from the first one: sacreBLEU's paired bootstrap (Koehn 2004), by metric and system.

    Raises:
        UsageError: fewer than two systems, or answers that do not fit the references.
    """
    if len(systems) < 2:
        raise UsageError("a comparison needs two systems")
    streams = [reference_streams(answers, references) for answers in systems.values()][0]
    metrics = {type(metric).__name__: metric for metric in _metrics(streams).values()}
    named = [(name, list(answers)) for name, answers in systems.items()]
    test = PairedTest(named, metrics, streams, test_type="bs", n_samples=resamples, n_jobs=1)
    _, table = test()
    found: dict[str, dict[str, SystemScore]] = {}
    for label, results in table.items():
        if label == "System":
            continue
        key = next(key for key in ("bleu", "chrf", "ter") if str(label).lower().startswith(key))
        found[key] = {
            name: SystemScore(float(result.score), float(result.mean), float(result.ci), _p_value(result, name, named))
            for name, result in zip(systems, results, strict=True)
        }
    return found


def _p_value(result: Any, name: str, named: Sequence[tuple[str, list[str]]]) -> float | None:
    """The test's own, but not below what so few answers can show, and 1 for a system that says the very same.

    The test counts draws above a difference of zero.
    """
    said, first = dict(named)[name], named[0][1]
    if result.p_value is None or len(first) < 2:
        return None
    return 1.0 if said == first else max(float(result.p_value), least_p_value(len(first)))


def same(answer: str, reference: str) -> bool:
    """Equal but for space around, space between words and Unicode's two ways to write a letter."""
    return _plain(answer) == _plain(reference)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def token_f1(answer: str, reference: str) -> float:
    """Overlap of words, as in SQuAD (Rajpurkar et al. 2016): lower-cased, split at all but letters and digits.

    Marks belong to the letter that they stand upon, as in Hindi; where no spaces are written, each letter is a word.
    """
    mine, theirs = Counter(_words(answer)), Counter(_words(reference))
    shared = sum((mine & theirs).values())
    return _f1(shared, sum(mine.values()), sum(theirs.values()))


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004, section 3), one summary a text.

    Words as in `token_f1`: on English that is what the package `rouge_score` does without its stemmer; it drops
    letters beyond a to z, we keep them.
    """
    mine, theirs = _words(answer), _words(reference)
    row = [0] * (len(theirs) + 1)
    for word in mine:
        diagonal = 0
        for place, other in enumerate(theirs, start=1):
            diagonal, row[place] = row[place], diagonal + 1 if word == other else max(row[place], row[place - 1])
    return _f1(row[-1], len(mine), len(theirs))


def _f1(shared: int, mine: int, theirs: int) -> float:
    if not shared:
        return 0.0
    precision, recall = shared / mine, shared / theirs
    return 2 * precision * recall / (precision + recall)


def _words(text: str) -> list[str]:
    kept = "".join(c.lower() if _is_of_a_word(c) else " " for c in unicodedata.normalize("NFC", text))
    return _WORD.findall(kept)


def _is_of_a_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character).startswith("M")


def _mean(values: Sequence[float]) -> float:
    return float(round(sum(values) / max(1, len(values)), 4))
