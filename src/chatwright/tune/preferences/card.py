"""The data card of a set of preferences: what is in it, what it was made of, what was left out and why, its leanings.

It shows no text that a person wrote, so that it can be passed on where the data cannot.
"""

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from chatwright.tune.preferences.harvest import Harvest, HarvestConfig
from chatwright.tune.preferences.pairs import Pair, Verdict


def data_card(harvest: Harvest, config: HarvestConfig) -> str:
    """The card as Markdown."""
    pairs, verdicts = harvest.preferences
    parts = [
        "# Data card: preferences from feedback",
        _sources(harvest.facts),
        "## What is in it\n\n" + _contents(pairs, verdicts),
        "## What was left out\n\n" + _table(("reason", "count"), harvest.dropped.items()),
        "## Agreement\n\n" + _agreement(harvest.facts, config),
        "## Leanings to know of\n\n" + _leanings(pairs),
    ]
    return "\n\n".join(parts) + "\n"


def _sources(facts: dict[str, Any]) -> str:
    models = ", ".join(f"`{name}` ({count})" for name, count in facts["models"].items()) or "none"
    span = "no opinion yet"
    if facts["first"] is not None:
        span = f"{_day(facts['first'])} to {_day(facts['last'])}"
    return (
        f"{facts['answers']} answers of {models}; {facts['opinions']} opinions of {facts['raters']} raters "
        f"(those without a name count as one), {facts['expert_opinions']} of them by experts; {span}."
    )


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _contents(pairs: Sequence[Pair], verdicts: Sequence[Verdict]) -> str:
    origins = sorted(Counter(("pair", pair.origin) for pair in pairs).items())
    origins += sorted(Counter(("good" if v.is_good else "bad", v.origin) for v in verdicts).items())
    rows = [(kind, origin, count) for (kind, origin), count in origins]
    everything: list[Pair | Verdict] = [*pairs, *verdicts]
    prompts = len({row.messages for row in everything})
    return f"{len(pairs)} pairs and {len(verdicts)} single verdicts on {prompts} questions.\n\n" + _table(
        ("kind", "made of", "count"), rows
    )


def _agreement(facts: dict[str, Any], config: HarvestConfig) -> str:
    told = (
        f"An opinion weighs {config.user_weight:g}, an expert's {config.expert_weight:g}. At least "
        f"{config.agreement:.0%} of the weight had to be on one side."
    )
    if facts["mean_agreement"] is None:
        return told + " No pair had more than one vote, so nothing can be said of agreement between people."
    return told + (
        f" {facts['pairs_with_several_votes']} pairs had several votes; on average {facts['mean_agreement']:.1%} of "
        "their weight was on one side (50% would be chance)."
    )


def _leanings(pairs: Sequence[Pair]) -> str:
    """Length is what preference data lean to most: a model learns to write long and seems better."""
    if not pairs:
        return "There are no pairs to look at."
    longer = sum(len(pair.chosen) > len(pair.rejected) for pair in pairs) / len(pairs)
    chosen, rejected = (statistics.median(len(text) for text in texts) for texts in zip(*_texts(pairs), strict=True))
    busiest = Counter(pair.messages for pair in pairs).most_common(1)[0][1]
    weights = sorted((pair.weight for pair in pairs), reverse=True)
    tenth = sum(weights[: max(1, len(weights) // 10)]) / sum(weights)
    return "\n".join(
        (
            f"- The preferred answer is the longer one in {longer:.0%} of pairs; medians {chosen:g} and {rejected:g} "
            "characters.",
            f"- The heaviest tenth of pairs has {tenth:.0%} of the weight.",
            f"- One question has {busiest} of the {len(pairs)} pairs.",
        )
    )


def _texts(pairs: Sequence[Pair]) -> list[tuple[str, str]]:
    return [(pair.chosen, pair.rejected) for pair in pairs]


def _table(head: Sequence[str], rows: Any) -> str:
    listed = [tuple(str(cell).replace("|", "\\|") for cell in row) for row in rows]
    if not listed:
        return "Nothing."
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in listed)])
