"""From people's feedback to preference data, by stated rules; what gives nothing is counted with its reason.

The rules, in the order in which they act:
1. Of several opinions of one person on the same thing the newest counts. Ratings without a name count as one person's.
2. A choice is a vote for the chosen answer; a tie is counted and teaches nothing; "both bad" is a vote against each.
3. An edit is a vote for the edited text over the answer. It says nothing of other answers. A better answer that comes
   with a choice is an edit of each of the two that did not win.
4. Ratings: of two answers to the same messages the one with the higher mean score gets a vote from each person who
   scored both, or else one vote if the means differ by `score_margin`. A thumb up beats a thumb down in the same way.
5. Each vote weighs `user_weight` or `expert_weight`. A pair, or an answer's thumb, stands if at least `agreement` of
   the weight is on one side; its own weight is what remains of it after the other side is taken off.
6. Pairs of equal text, of answers that were cancelled, whose last question is among the test prompts, or that follow an
   empty turn or two turns of one side are dropped. Of an answer that was cut off at its longest only edits are taken:
   learned as it stands, it would teach to end there.
7. Before all of that: answers to, and opinions of, people who do not agree to being learned from are dropped.
Not for reading a database (feedback/store.py) or writing files (pairs.py).
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pydantic import Field

from chatwright.feedback.conversations import Message
from chatwright.feedback.study import in_one_text
from chatwright.foundation.config import Config
from chatwright.tune.preferences.pairs import Pair, Preferences, Verdict, in_turn

_EXPERT = "expert"
_CUT_OFF = "the answer was cut off"


class HarvestConfig(Config):
    """How opinions become data."""

    user_weight: float = Field(default=1.0, gt=0)  # of one opinion
    expert_weight: float = Field(default=2.0, gt=0)
    agreement: float = Field(default=0.6, gt=0.5, le=1)  # share of the weight that must be on one side
    score_margin: float = Field(default=1.0, gt=0)  # of mean scores, where nobody scored both answers


class Harvest(NamedTuple):
    """What the feedback gave, and what it did not."""

    preferences: Preferences
    dropped: dict[str, int]  # by reason
    facts: dict[str, Any]  # for the data card


class _Vote(NamedTuple):
    weight: float  # positive: for the first text of the key
    origin: str
    source: str


class _Key(NamedTuple):
    messages: tuple[Message, ...]
    first: str
    second: str


def harvest(entries: Iterable[dict[str, Any]], config: HarvestConfig, *, test_prompts: frozenset[str]) -> Harvest:
    """Preferences from a feedback store's export.

    Args:
        entries: answers with `ratings`, `scores` and `choices`, as `FeedbackStore.export` gives them. An opinion may
            carry `rater` and `role` ("user" or "expert"); `consent` that is false leaves an answer or an opinion out.
        config: weights and rules.
        test_prompts: normalised last questions (`normalised`) that must not be learned.
    """
    dropped: Counter[str] = Counter()
    answers: dict[str, dict[str, Any]] = {}
    cut_off: dict[str, dict[str, Any]] = {}
    for entry in entries:
        reason = _unusable(entry, test_prompts)
        if reason is None:
            answers[str(entry["id"])] = _agreed(entry, dropped)
            continue
        if reason == _CUT_OFF:
            cut_off[str(entry["id"])] = _agreed(entry, dropped)
        if any(entry.get(kind) for kind in ("ratings", "scores", "choices")):
            dropped[reason] += 1
    votes: dict[_Key, list[_Vote]] = defaultdict(list)
    thumbs: dict[tuple[tuple[Message, ...], str], list[_Vote]] = defaultdict(list)
    for key, vote in itertools.chain(
        _from_choices(answers, config, dropped),
        _from_edits(answers | cut_off, config, dropped),
        _from_ratings(answers, config),
    ):
        _cast(votes, key, vote, dropped)
    for entry in answers.values():
        for vote in _thumbs(entry, config):
            thumbs[_messages(entry), entry["answer"].strip()].append(vote)
    pairs = [pair for key, cast in votes.items() if (pair := _settled_pair(key, cast, config, dropped))]
    verdicts = [
        verdict
        for (messages, text), cast in thumbs.items()
        if (verdict := _settled(messages, text, cast, config, dropped))
    ]
    facts = _facts(answers.values(), votes)
    return Harvest(Preferences(pairs, verdicts), dict(sorted(dropped.items())), facts)


def normalised(text: str) -> str:
    """A question without what does not make it another one: case, space, punctuation at the ends."""
    return " ".join(text.casefold().split()).strip(" .?!,;:")


def questions_of(conversations: Iterable[Sequence[Message]]) -> frozenset[str]:
    """The normalised questions of test conversations: each alone, and with all that was said before it in one text.

    In one text they came to the page for raters, and from there into stores, before its studies kept the turns.
    """
    return frozenset(
        normalised(text)
        for messages in conversations
        for place, message in enumerate(messages)
        if message.role == "user"
        for text in (message.content, in_one_text(messages[: place + 1]))
    )


def _agreed(entry: dict[str, Any], dropped: Counter[str]) -> dict[str, Any]:
    """Rule 7 for opinions; scores stand among the ratings from here on."""
    kept: dict[str, list[dict[str, Any]]] = {"ratings": [], "choices": []}
    for kind, place in (("ratings", "ratings"), ("scores", "ratings"), ("choices", "choices")):
        for opinion in entry.get(kind, ()):
            if opinion.get("consent", True):
                kept[place].append(opinion)
            else:
                dropped["an opinion of somebody who does not agree to being learned from"] += 1
    return {**entry, **kept}


def _unusable(entry: dict[str, Any], test_prompts: frozenset[str]) -> str | None:
    if not entry.get("consent", True):
        return "who asked does not agree to being learned from"
    messages = _messages(entry)
    unsound = _unsound_turns(messages)
    if unsound is not None:
        return unsound
    if normalised(messages[-1].content) in test_prompts:
        return "a test prompt"
    if entry.get("finish") == "cancelled":
        return "the answer was cancelled"
    if not str(entry.get("answer", "")).strip():
        return "an empty answer"
    return _CUT_OFF if entry.get("finish") == "length" else None


def _unsound_turns(messages: Sequence[Message]) -> str | None:
    """Why nothing can be learned after these turns: readers of preferences refuse what is named here."""
    if not messages or messages[-1].role != "user":
        return "no question before the answer"
    if not in_turn(messages):
        return "turns that do not alternate"
    return None if all(message.content.strip() for message in messages) else "an empty turn before the answer"


def _messages(entry: dict[str, Any]) -> tuple[Message, ...]:
    return tuple(Message(message["role"], message["content"]) for message in entry["messages"])


def _newest(opinions: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rule 1."""
    by_person = {str(item.get("rater") or ""): item for item in sorted(opinions, key=lambda item: item["created"])}
    return list(by_person.values())


def _standing_choices(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Rule 1 for choices: what each person said last of each two answers."""
    by_other: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for choice in entry.get("choices", ()):
        by_other[str(choice["against"])].append(choice)
    return [choice for choices in by_other.values() for choice in _newest(choices)]


def _thumbs_of(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Rule 1 for thumbs."""
    return _newest(rating for rating in entry.get("ratings", ()) if rating.get("thumb") in (-1, 1))


def _standing_ratings(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Ratings without those whose thumb the same person turned round later, and their edits with them."""
    last = {str(rating.get("rater") or ""): rating["thumb"] for rating in _thumbs_of(entry)}
    return [
        rating
        for rating in entry.get("ratings", ())
        if rating.get("thumb") in (None, last.get(str(rating.get("rater") or "")))
    ]


def _weight(opinion: dict[str, Any], config: HarvestConfig) -> float:
    return config.expert_weight if opinion.get("role") == _EXPERT else config.user_weight


def _cast(votes: dict[_Key, list[_Vote]], key: _Key, vote: _Vote, dropped: Counter[str]) -> None:
    """Votes on the same two texts come together, whichever of them was shown first."""
    key = _Key(key.messages, key.first.strip(), key.second.strip())
    if key.first == key.second:
        dropped["both answers are the same text"] += 1
        return
    turned = _Key(key.messages, key.second, key.first)
    if turned in votes:
        votes[turned].append(vote._replace(weight=-vote.weight))
    else:
        votes[key].append(vote)


def _from_choices(
    answers: dict[str, Any], config: HarvestConfig, dropped: Counter[str]
) -> Iterable[tuple[_Key, _Vote]]:
    """Rule 2. A choice stands with both answers; it is read from the one that won, or was lost to an unusable one."""
    for name, entry in answers.items():
        for choice in _standing_choices(entry):
            other = str(choice["against"])
            if choice["choice"] == "tie":
                dropped["a tie"] += name < other or other not in answers
            elif choice["choice"] == "won" and other not in answers:
                dropped["the other answer cannot be used"] += 1
            elif choice["choice"] == "won" and _messages(answers[other]) != _messages(entry):
                dropped["the two answers have different questions"] += 1
            elif choice["choice"] == "won":
                key = _Key(_messages(entry), entry["answer"], answers[other]["answer"])
                yield key, _Vote(_weight(choice, config), "choice", f"{name} over {other}")


def _from_edits(answers: dict[str, Any], config: HarvestConfig, dropped: Counter[str]) -> Iterable[tuple[_Key, _Vote]]:
    """Rule 3."""
    for name, entry in answers.items():
        unpreferred = [choice for choice in _standing_choices(entry) if choice["choice"] != "won"]
        opinions = (*_standing_ratings(entry), *unpreferred)
        edits = [opinion for opinion in opinions if opinion.get("better_answer") is not None]
        for rating in _newest(edits):
            if not rating["better_answer"].strip():
                dropped["an empty edit"] += 1
                continue
            key = _Key(_messages(entry), rating["better_answer"], entry["answer"])
            yield key, _Vote(_weight(rating, config), "edit", f"edit of {name}")


def _from_ratings(answers: dict[str, Any], config: HarvestConfig) -> Iterable[tuple[_Key, _Vote]]:
    """Rule 4."""
    by_prompt: dict[tuple[Message, ...], list[str]] = defaultdict(list)
    for name, entry in answers.items():
        by_prompt[_messages(entry)].append(name)
    for messages, names in by_prompt.items():
        for first, second in itertools.combinations(names, 2):
            key = _Key(messages, answers[first]["answer"], answers[second]["answer"])
            for field, origin in (("score", "ratings"), ("thumb", "thumbs")):
                for weight in _compared(answers[first], answers[second], field, config):
                    yield key, _Vote(weight, origin, f"{first} and {second}")


def _compared(first: dict[str, Any], second: dict[str, Any], field: str, config: HarvestConfig) -> list[float]:
    """Signed votes of those who rated both; where nobody did, one of the means if they are far enough apart."""
    mine, other = (
        {
            str(rating.get("rater") or ""): rating
            for rating in _newest(rating for rating in entry.get("ratings", ()) if rating.get(field) is not None)
        }
        for entry in (first, second)
    )
    if not mine or not other:
        return []
    both = mine.keys() & other.keys()
    if both:
        gaps = {person: mine[person][field] - other[person][field] for person in sorted(both)}
        return [_weight(mine[person], config) * (1 if gap > 0 else -1) for person, gap in gaps.items() if gap]
    means = [sum(rating[field] for rating in rated.values()) / len(rated) for rated in (mine, other)]
    margin = config.score_margin if field == "score" else 1.0
    gap = means[0] - means[1]
    return [config.user_weight * (1 if gap > 0 else -1)] if abs(gap) >= margin else []


def _thumbs(entry: dict[str, Any], config: HarvestConfig) -> Iterable[_Vote]:
    """Thumbs of an answer, and the "both bad" of choices."""
    for rating in _thumbs_of(entry):
        yield _Vote(rating["thumb"] * _weight(rating, config), "thumb", str(entry["id"]))
    for choice in _newest(choice for choice in _standing_choices(entry) if choice["choice"] == "both_bad"):
        yield _Vote(-_weight(choice, config), "both bad", str(entry["id"]))


class _Balance(NamedTuple):
    net: float  # positive: for
    share: float  # of the weight on the heavier side


def _balance(cast: Sequence[_Vote]) -> _Balance:
    total = sum(abs(vote.weight) for vote in cast)
    net = sum(vote.weight for vote in cast)
    return _Balance(net, (total + abs(net)) / (2 * total))


def _settled_pair(key: _Key, cast: Sequence[_Vote], config: HarvestConfig, dropped: Counter[str]) -> Pair | None:
    """Rule 5 for a pair."""
    balance = _balance(cast)
    if balance.net == 0 or balance.share < config.agreement:
        dropped["people disagree on the pair"] += 1
        return None
    chosen, rejected = (key.first, key.second) if balance.net > 0 else (key.second, key.first)
    return Pair(
        messages=key.messages,
        chosen=chosen,
        rejected=rejected,
        weight=abs(balance.net),
        origin=cast[0].origin,
        source=cast[0].source,
    )


def _settled(
    messages: tuple[Message, ...], text: str, cast: Sequence[_Vote], config: HarvestConfig, dropped: Counter[str]
) -> Verdict | None:
    """Rule 5 for an answer's thumbs."""
    balance = _balance(cast)
    if balance.net == 0 or balance.share < config.agreement:
        dropped["people disagree on the answer"] += 1
        return None
    return Verdict(
        messages=messages,
        answer=text,
        is_good=balance.net > 0,
        weight=abs(balance.net),
        origin=cast[0].origin,
        source=cast[0].source,
    )


def _facts(answers: Iterable[dict[str, Any]], votes: dict[_Key, list[_Vote]]) -> dict[str, Any]:
    entries = list(answers)
    opinions = [opinion for entry in entries for opinion in (*entry.get("ratings", ()), *entry.get("choices", ()))]
    contested = [_balance(cast).share for cast in votes.values() if len(cast) > 1]
    return {
        "answers": len(entries),
        "models": dict(sorted(Counter(str(entry.get("model", "unknown")) for entry in entries).items())),
        "raters": len({str(opinion.get("rater") or "") for opinion in opinions}),
        "expert_opinions": sum(opinion.get("role") == _EXPERT for opinion in opinions),
        "opinions": len(opinions),
        "first": min((opinion["created"] for opinion in opinions), default=None),
        "last": max((opinion["created"] for opinion in opinions), default=None),
        "pairs_with_several_votes": len(contested),
        "mean_agreement": round(sum(contested) / len(contested), 4) if contested else None,
    }
