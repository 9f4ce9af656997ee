"""The page that joins what is known of weak areas: topics, domains, proposals. Renders only; `recipe/weak.py` finds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chatwright.recipe.report.evaluations import page_without_script
from chatwright.recipe.report.markup import (
    Child,
    Html,
    code,
    count,
    decimal,
    element,
    join,
    note,
    share_bar,
    table,
)

if TYPE_CHECKING:
    from chatwright.recipe.weak import Domain, Proposal, Topic

_DASH = "\N{EN DASH}"


def weak_page(name: str, topics: "Sequence[Topic]", domains: "Sequence[Domain]", found: "Sequence[Proposal]") -> str:
    """One page, without any script: bars by topic and by domain, and what to change.

    Args:
        name: of the run.
        topics: the weakest first.
        domains: the hardest first.
        found: proposals in the order of their numbers.
    """
    parts: list[Child] = [_topics(topics)]
    if domains:
        parts.append(_domains(domains))
    parts.append(_proposals(found))
    return page_without_script(f"{name}: weak areas", join(parts))


def _topics(topics: "Sequence[Topic]") -> Html:
    rows: list[list[Child]] = [
        [
            topic.name,
            _share(topic.right),
            count(topic.questions),
            _share(topic.tasks),
            count(topic.task_items),
            _DASH if topic.rated is None else decimal(topic.rated, digits=2),
            count(topic.ratings),
            _thumbs(topic),
        ]
        for topic in topics
    ]
    head = ["topic", "right answers", "questions", "tasks", "items", "people's mean (1 to 5)", "ratings", "thumbs up"]
    told = "Weakest first, by the mean of what is known of a topic. Topics are labels, or clusters of like questions."
    return join([table(head, rows, caption="Topics"), note(told)])


def _share(share: float | None) -> Child:
    return _DASH if share is None else share_bar(share)


def _thumbs(topic: "Topic") -> Child:
    number = topic.thumbs_up + topic.thumbs_down
    return _DASH if not number else join([share_bar(topic.thumbs_up / number), f" of {number:,}"])


def _domains(domains: "Sequence[Domain]") -> Html:
    most = max(domain.bits_per_byte for domain in domains)
    rows: list[list[Child]] = [
        [
            domain.name,
            element("span", class_="bar", style=f"--share:{domain.bits_per_byte / most:.4f}", aria_hidden="true"),
            decimal(domain.bits_per_byte),
            f"{domain.beside_all:.2f}",
            count(domain.documents),
        ]
        for domain in domains
    ]
    head = ["domain", "", "bits per byte", "times that of all", "documents"]
    return table(head, rows, caption="Held-out documents by domain, hardest first", words=(1,))


def _proposals(found: "Sequence[Proposal]") -> Html:
    if not found:
        return note("Nothing to propose: no topic or domain is weak enough.")
    items = [element("li", proposal.why, ": ", code(f"{proposal.key} = {proposal.value}")) for proposal in found]
    how = note("Accept one with ", code("chatwright weak RUN --accept NUMBER --to NEW.toml"), "; nothing else changes.")
    return join([element("h3", "What to change"), element("ol", *items), how])
