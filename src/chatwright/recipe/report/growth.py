"""What the model wrote while it learned: the same prompts at several steps. Nothing is written here."""

from collections.abc import Sequence

from chatwright.recipe.report import markup as html
from chatwright.recipe.report.facts import StageFacts

_MOST = 6  # steps shown of each prompt


def samples_over_training(stage: StageFacts) -> html.Html | None:
    """Each prompt with what followed it at steps spread over the training; nothing where none were taken."""
    by_prompt: dict[str, list[tuple[int, str]]] = {}
    for event in stage.events("evaluation"):
        for item in event.get("samples", []):
            by_prompt.setdefault(str(item["prompt"]), []).append((int(event["step"]), str(item["text"])))
    if not by_prompt:
        return None
    blocks = [_of_prompt(prompt, _spread(found)) for prompt, found in by_prompt.items()]
    how = "The same prompts at each step, each continued by the likeliest token every time: nothing is drawn or chosen."
    return html.join([html.element("h3", "What it wrote on the way"), *blocks, html.note(how)])


def _spread(found: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """The first, the last, and steps at even distances between."""
    if len(found) <= _MOST:
        return list(found)
    return [found[round(index * (len(found) - 1) / (_MOST - 1))] for index in range(_MOST)]


def _of_prompt(prompt: str, found: Sequence[tuple[int, str]]) -> html.Html:
    rows: list[list[html.Child]] = [
        [f"step {html.count(step)}", html.element("pre", written, class_="text")] for step, written in found
    ]
    return html.table(["", "what followed"], rows, caption=prompt or "(nothing before)", words=(1,))
