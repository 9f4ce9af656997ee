"""The page that joins what is known of weak areas: topics, domains, proposals. Renders only; `recipe/weak.py` finds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chatwright.recipe.report import markup as html
from chatwright.recipe.report.evaluations import page_without_script

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
    parts: list[html.Child] = [_topics(topics)]
    if domains:
        parts.append(_domains(domains))
    parts.append(_proposals(found))
    return page_without_script(f"{name}: weak areas", html.join(parts))


def _topics(topics: "Sequence[Topic]") -> html.Html:
    rows: list[list[html.Child]] = [
        [
            topic.name,
            _share(topic.right),
            html.count(topic.questions),
            _share(topic.tasks),
            html.count(topic.task_items),
            _DASH if topic.rated is None else html.decimal(topic.rated, digits=2),
            html.count(topic.ratings),
            _thumbs(topic),
        ]
        for topic in topics
    ]
    head = ["topic", "right answers", "questions", "tasks", "items", "people's mean (1 to 5)", "ratings", "thumbs up"]
    told = "Weakest first, by the mean of what is known of a topic. Topics are labels, or clusters of like questions."
    return html.join([html.table(head, rows, caption="Topics"), html.note(told)])


def _share(share: float | None) -> html.Child:
    return _DASH if share is None else html.share_bar(share)


def _thumbs(topic: "Topic") -> html.Child:
    number = topic.thumbs_up + topic.thumbs_down
    return _DASH if not number else html.join([html.share_bar(topic.thumbs_up / number), f" of {number:,}"])


def _domains(domains: "Sequence[Domain]") -> html.Html:
    most = max(domain.bits_per_byte for domain in domains)
    rows: list[list[html.Child]] = [
        [
            domain.name,
            html.element("span", class_="bar", style=f"--share:{domain.bits_per_byte / most:.4f}", aria_hidden="true"),
            html.decimal(domain.bits_per_byte),
            f"{domain.beside_all:.2f}",
            html.count(domain.documents),
        ]
        for domain in domains
    ]
    head = ["domain", "", "bits per byte", "times that of all", "documents"]
    return html.table(head, rows, caption="Held-out documents by domain, hardest first", words=(1,))


def _proposals(found: "Sequence[Proposal]") -> html.Html:
    if not found:
        return html.note("Nothing to propose: no topic or domain is weak enough.")
    items = [html.element("li", proposal.why, ": ", html.code(proposal.shown)) for proposal in found]
    how = html.note(
        "Accept one with ", html.code("chatwright weak RUN --accept NUMBER --to NEW.toml"), "; nothing else changes."
    )
    return html.join([html.element("h3", "What to change"), html.element("ol", *items), how])
