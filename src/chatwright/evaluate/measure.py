"""One model on files that somebody names: measured, and kept as a record. The recipe's stage is `stage`."""

from pathlib import Path
from typing import Any, NamedTuple

from chatwright.evaluate import perplexity
from chatwright.evaluate.perplexity import TextLoss, Windows
from chatwright.evaluate.records import model_facts, new_record
from chatwright.evaluate.texts import read_texts
from chatwright.model.chat import ChatModel


class MeasuredTexts(NamedTuple):
    """A record, and the losses it was made of."""

    record: dict[str, Any]
    losses: list[TextLoss]


def measure_texts(
    model: ChatModel,
    path: Path,
    *,
    model_path: Path,
    windows: Windows,
    text_key: str = "text",
    split: str | None = None,
    num_worst: int = 10,
    seed: int = 1,
) -> MeasuredTexts:
    """Perplexity and bits per byte of texts, by domain and with intervals; the hardest documents and passages.

    Args:
        model: what is measured.
        path: a file, a folder or a corpus directory.
        model_path: where the model stands, for the record.
        windows: context and stride.
        text_key: key or column of the text.
        split: of a corpus directory, the split to measure.
        num_worst: hardest documents and passages to keep.
        seed: of the bootstrap.

    Raises:
        DataError: nothing to measure, or a damaged file.
    """
    texts = read_texts(path, text_key=text_key, split=split)
    losses = perplexity.text_losses(model, texts.texts, windows=windows)
    result = {
        "domains": perplexity.by_domain(losses, seed=seed),
        "worst_documents": perplexity.worst_documents(losses, count=num_worst),
        "worst_spans": perplexity.worst_spans(losses, model.tokenizer, count=num_worst),
    }
    record = new_record(
        "texts",
        model=model_facts(model, model_path),
        data={"path": str(path), "digest": texts.digest, "split": split, "empty_documents": texts.num_empty},
        settings={**windows._asdict(), "seed": seed, "resamples": perplexity.RESAMPLES, "text_key": text_key},
        result=result,
    )
    return MeasuredTexts(record, losses)
