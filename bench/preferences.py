"""What a rule-made judge prefers, learned from pairs (DPO), thumbs (KTO) and a checkable reward (GRPO).

Call: python bench/preferences.py --run RUN --chats FOLDER --work FOLDER

RUN is a finished demo run, FOLDER the conversations it was fine-tuned on (`examples/support`). Our engine writes two
answers each to thousands of questions at temperature one; the judge, a rule that knows no right answer, gives a point
each for a short answer, a polite one and one that takes up the question, until 2,000 pairs are decided. Settings are
chosen on validation questions by one seed; then three seeds are measured on 500 other questions: the share on which the
judge prefers the new model's answer to the old one's, ties half, with the divergence and what was forgotten as the
stage `align` measures them. Beside it stands what the judge does not see: how many answers say what the shop's do.

Results are appended to WORK/preferences.jsonl; called again, only what is missing is run. The table comes from them.
"""

import argparse
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from _study import Results, spread, table
from chatwright.feedback.conversations import Conversation, Message, read_conversations
from chatwright.foundation.config import validate
from chatwright.foundation.stage import StageContext
from chatwright.foundation.streams import seed_for
from chatwright.model.chat import load
from chatwright.model.generation import Sampling
from chatwright.tune.preferences import align
from chatwright.tune.preferences.settings import AlignConfig

PAIRS, HELDOUT, VALIDATION = 2000, 500, 200
ANSWER_TOKENS, AT_ONCE = 72, 256
WORDS_LEFT_OUT = 0.25  # of a training question, so that it is not one that was learned by heart
SEEDS = (1, 2, 3)
_POLITE = frozenset({"please", "sorry", "welcome", "happy", "glad", "thank"})
_SHORT_WORDS = 28
_GOOD = 2  # points that earn a thumb up
_COMMON = {"method": "all", "device": "cpu", "precision": "float32", "threads": 1, "checkpoint_every": 10_000}
_COMMON |= {"evaluate_every": 10_000, "max_answer_tokens": ANSWER_TOKENS}
# Each tried on the validation questions with the first seed; the best wins.
CANDIDATES: dict[str, tuple[dict[str, Any], ...]] = {
    "dpo": (
        {"optimizer": {"learning_rate": 2e-5}},
        {"beta": 0.3, "optimizer": {"learning_rate": 5e-5}},
        {"optimizer": {"learning_rate": 2e-4}},
        {"optimizer": {"learning_rate": 4e-4}},
    ),
    # Few thumbs are up: the weight brings both kinds to like shares of the loss (Ethayarajh et al. 2024, section 4.3)
    "kto": (
        {"good_weight": 4.0, "optimizer": {"learning_rate": 1e-4}},
        {"good_weight": 4.0, "optimizer": {"learning_rate": 3e-4}},
    ),
    "grpo": ({"optimizer": {"learning_rate": 3e-4}}, {"optimizer": {"learning_rate": 1e-3}}),
}
GRPO = {"rewards": [{"kind": "length", "words": 20}], "batch_rows": 8, "answers_per_prompt": 8, "micro_rows": 64}
GRPO_QUESTIONS = 200


class Question(NamedTuple):
    """What is asked, and the answer that the shop's policy gives."""

    text: str
    expected: str


class Bench(NamedTuple):
    """Where everything is."""

    run: Path
    work: Path
    results: Results

    @property
    def base(self) -> Path:
        """The model to improve."""
        return self.run / "finetune" / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--chats", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="only print what was found")
    parser.add_argument("--only", nargs="*", choices=CANDIDATES, default=list(CANDIDATES), help="of the three ways")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.run, options.work, Results(options.work / "preferences.jsonl"))
    if not options.table:
        study(bench, Questions.of(options.chats), options.only)
    print(report(bench.results))


class Questions(NamedTuple):
    """Three parts that share no question."""

    learned: list[Question]
    validation: list[Question]
    heldout: list[Question]

    @classmethod
    def of(cls, chats: Path) -> "Questions":
        """Test questions are all held out, filled up from training questions that are then not learned."""
        train, test = (_single(read_conversations(chats / f"{name}.jsonl")) for name in ("train", "test"))
        chance = random.Random(7)
        chance.shuffle(train)
        train = [question._replace(text=_shortened(question.text, chance)) for question in train]
        asked = {question.text for question in test}
        train = list({question.text: question for question in train if question.text not in asked}.values())
        missing = max(0, HELDOUT - len(test))
        return cls(
            train[missing + VALIDATION :], train[missing : missing + VALIDATION], [*test, *train[:missing]][:HELDOUT]
        )


def _single(conversations: Sequence[Conversation]) -> list[Question]:
    return [
        Question(one.messages[0].content, one.messages[1].content) for one in conversations if len(one.messages) == 2
    ]


def _shortened(text: str, chance: random.Random) -> str:
    words = text.split()
    return " ".join(word for word in words if chance.random() >= WORDS_LEFT_OUT) or text


def study(bench: Bench, questions: Questions, kinds: Sequence[str]) -> None:
    """Label, choose settings, measure."""
    bench.results.once("labels", lambda: label(bench, questions))
    for kind in kinds:
        tried = [tried_out(bench, questions, kind, number) for number in range(len(CANDIDATES[kind]))]
        best = max(range(len(tried)), key=lambda number: tried[number]["gain"])
        for seed in SEEDS:
            measured(bench, questions, kind, best, seed)


def tried_out(bench: Bench, questions: Questions, kind: str, number: int) -> dict[str, Any]:
    """A candidate on the validation questions."""
    name = f"{kind}/candidate {number}"
    return bench.results.once(name, lambda: learn(bench, questions.validation, kind, CANDIDATES[kind][number], seed=0))


def measured(bench: Bench, questions: Questions, kind: str, number: int, seed: int) -> dict[str, Any]:
    """The chosen settings on the held-out questions."""
    settings = CANDIDATES[kind][number]

    def run() -> dict[str, Any]:
        return {"kind": kind, "seed": seed, **learn(bench, questions.heldout, kind, settings, seed=seed)}

    return bench.results.once(f"{kind}/seed {seed}", run)


def judged(question: Question, answer: str) -> int:
    """0 to 3: a point each for a short answer, a polite one, and one that takes up a word of the question."""
    said = _words(answer)
    is_short = 0 < len(said) <= _SHORT_WORDS
    return is_short + bool(_POLITE & set(said)) + bool(_stems(question.text) & _stems(answer))


def _stems(text: str) -> set[str]:
    """The beginnings of words of some length."""
    return {word[:5] for word in _words(text) if len(word) > 3}  # noqa: PLR2004


def is_right(question: Question, answer: str) -> bool:
    """Whether nearly all that an answer says stands in the shop's."""
    wanted, said = set(_words(question.expected)), _words(answer)
    return sum(word in wanted for word in said) > 0.8 * len(said)


def _words(text: str) -> list[str]:
    return [word.strip(".,;:!?").lower() for word in text.split()]


def answers(model: Path, questions: Sequence[Question], *, seed: int) -> list[str]:
    """One answer to each, drawn at temperature one by the engine that serves."""
    loaded = load(model)
    found = []
    for start in range(0, len(questions), AT_ONCE):
        part = questions[start : start + AT_ONCE]
        drawn = [
            Sampling(max_tokens=ANSWER_TOKENS, temperature=1.0, seed=seed_for(seed, start, i)) for i in range(len(part))
        ]
        requests = [loaded.chat_request([Message("user", one.text)], how) for one, how in zip(part, drawn, strict=True)]
        found += [written[0].text.strip() for written in loaded.engine.run(requests)]
    return found


def label(bench: Bench, questions: Questions) -> dict[str, Any]:
    """The judge's pairs and thumbs, and questions for the checkable reward, as files in the work folder."""
    pairs: list[dict[str, Any]] = []
    thumbs: list[dict[str, Any]] = []
    asked = 0
    while len(pairs) < PAIRS:  # the questions anew, with other draws, should one pass decide too few
        start = asked % len(questions.learned)
        part = questions.learned[start : start + AT_ONCE]
        both = [answers(bench.base, part, seed=seed_for(11, number, asked)) for number in range(2)]
        asked += len(part)
        for question, first, second in zip(part, *both, strict=True):
            gap = judged(question, first) - judged(question, second)
            if gap and first and second:
                chosen, rejected = (first, second) if gap > 0 else (second, first)
                pairs.append({"prompt": question.text, "chosen": chosen, "rejected": rejected})
            if first:
                is_good = judged(question, first) >= _GOOD
                thumbs.append({"prompt": question.text, "completion": first, "label": is_good})
    tasks = [{"question": one.text, "answer": one.expected} for one in questions.learned[:GRPO_QUESTIONS]]
    for name, rows in {"pairs": pairs[:PAIRS], "thumbs": thumbs[:PAIRS], "tasks": tasks}.items():
        (bench.work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    good = sum(row["label"] for row in thumbs[:PAIRS])
    return {"asked": asked, "pairs": len(pairs[:PAIRS]), "thumbs": len(thumbs[:PAIRS]), "good": good}


def learn(
    bench: Bench, questions: Sequence[Question], kind: str, settings: dict[str, Any], *, seed: int
) -> dict[str, Any]:
    """The stage `align`, and what it gained on questions that it did not learn from."""
    output = bench.work / "align"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    data = {"dpo": "pairs", "kto": "thumbs", "grpo": "tasks"}[kind]
    section = {**_COMMON, **settings, "objective": kind, "data": str(bench.work / f"{data}.jsonl")}
    section |= GRPO if kind == "grpo" else {}
    context = StageContext(
        config=validate(AlignConfig, section, where=kind),
        inputs={"base": bench.base, "tokens": bench.run / "tokens"},
        output=output,
        seed=seed,
    )
    found = align.run(context)
    old, new = answers(bench.base, questions, seed=101), answers(output / "model", questions, seed=200 + seed)
    gains = [judged(one, after) - judged(one, before) for one, before, after in zip(questions, old, new, strict=True)]
    win_rate = sum((gain > 0) + 0.5 * (gain == 0) for gain in gains) / len(gains)
    before, after = (sum(map(length_reward, part)) / len(part) for part in (old, new))
    return {
        "settings": settings,
        "win_rate": round(win_rate, 4),
        "reward_before": round(before, 4),
        "reward": round(after, 4),
        "headroom_share": round((after - before) / (1 - before), 4),
        "gain": round((after - before) if kind == "grpo" else win_rate, 4),
        "nats": found["divergence_nats"],
        "forgotten": found["forgetting"]["all"],
        "steps": found["steps"],
        "seconds": found["seconds"],
        "points": [round(sum(map(judged, questions, part)) / len(part), 3) for part in (old, new)],
        "right": [round(sum(map(is_right, questions, part)) / len(part), 3) for part in (old, new)],
    }


def length_reward(answer: str) -> float:
    """The rule of `GRPO`, apart from the code that is measured: one at twenty words, nothing at none or forty."""
    return max(0.0, 1 - abs(len(answer.split()) - 20) / 20)


def report(results: Results) -> str:
    """One row for each way, over its seeds."""
    rows = []
    for kind in CANDIDATES:
        mine = [line for line in results.lines.values() if line.get("kind") == kind]
        shown = [
            spread((line["win_rate"] for line in mine), digits=3),
            spread((line["headroom_share"] for line in mine), digits=3) if kind == "grpo" else "-",
            spread((line["nats"] for line in mine), digits=2),
            spread((line["forgotten"] for line in mine), digits=4),
            *(spread((line["right"][place] for line in mine), digits=2) for place in range(2)),
        ]
        rows.append([kind, str(mine[0]["settings"]) if mine else "-", *shown])
    return table(
        [
            "way",
            "settings",
            "win rate",
            "of the reward's headroom",
            "nats",
            "forgotten, bits per byte",
            *("right before", "right after"),
        ],
        rows,
    )


if __name__ == "__main__":
    main()
