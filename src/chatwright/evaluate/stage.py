"""The stage `evaluate`: every model of the run on the same held-out documents and test questions."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from chatwright.data.document import Document, iter_documents
from chatwright.evaluate.answers import Answered, ask, references_by_label, score, stated_label
from chatwright.evaluate.baselines import ByteTrigram, xz_bits_per_byte
from chatwright.evaluate.perplexity import Totals, Windows, ratio_intervals, text_losses, worst_spans
from chatwright.evaluate.records import FOLDER, history, keep, new_record
from chatwright.evaluate.texts import Text
from chatwright.feedback.conversations import Conversation, read_conversations
from chatwright.foundation import storage
from chatwright.foundation.config import Config
from chatwright.foundation.console import say
from chatwright.foundation.devices import place
from chatwright.foundation.stage import StageContext
from chatwright.foundation.streams import seed_for
from chatwright.model.chat import ChatModel, load
from chatwright.model.generation import Sampling
from chatwright.tokens.shards import TokenData
from chatwright.train.heldout import DocumentLoss, by_domain, document_losses, domain_shown

SCORES = "scores.json"
_DOCUMENTS = ("tokens", "corpus")  # of the inputs; every other one is a stage that made a model


class EvaluateConfig(Config):
    """What is measured."""

    answers: str | None = None  # test conversations whose last answer is to be given; absent: `finetune.test`; "": none
    references: str | None = None  # conversations whose labels name the possible answers; default: the fine-tuning data
    max_answer_tokens: int = Field(default=96, ge=1)
    beams: int = Field(default=1, ge=1)  # of the search for answers; 1 is greedy
    stride_share: float = Field(default=0.5, gt=0, le=1)  # of the context, by which perplexity's windows move on
    baselines: bool = True  # byte trigrams and xz on the same documents
    baseline_bytes: int = Field(default=32 << 20, ge=1)  # of training text for the trigrams
    prompts: tuple[str, ...] = ()  # continued by the base model, as samples
    sample_tokens: int = Field(default=80, ge=1)
    worst_documents: int = Field(default=10, ge=0)  # named in the scores, with their loss
    threads: int = Field(default=0, ge=0)


class EvaluateInputs(Config):
    """The section, and where the fine-tuning data lies."""

    evaluate: EvaluateConfig
    finetune_data: str | None = None


def run(context: StageContext) -> dict[str, Any]:
    """Score every model of the run; leaves `scores.json`, `samples.json` and `spans.json`."""
    inputs: EvaluateInputs = context.config
    config = inputs.evaluate
    placement = place(threads=config.threads, precision="float32")
    tests = read_conversations(Path(config.answers)) if config.answers else []
    labelled = config.references or inputs.finetune_data
    references = references_by_label(read_conversations(Path(labelled))) if labelled and tests else {}
    scores: dict[str, Any] = {"models": {}}
    samples: dict[str, Any] = {}
    for name in context.inputs:
        if name in _DOCUMENTS:
            continue
        context.stop.check("the stages before evaluation")
        model = load(context.inputs[name] / "model", device=placement.device)
        scores["models"][name], samples[name] = _evaluate_model(
            context, model, tests, references, is_base=name == "pretrain"
        )
    if config.baselines and "corpus" in context.inputs:
        context.stop.check("the stages before evaluation")
        scores["baselines"] = _baselines(context.inputs["corpus"], config)
    spans = {name: sample.pop("spans") for name, sample in samples.items() if "spans" in sample}
    storage.write_json(context.output / SCORES, scores)
    storage.write_json(context.output / "spans.json", spans)
    storage.write_json(context.output / "samples.json", samples)
    return scores


def keep_records(directory: Path) -> None:
    """Add what the published stage measured to the run's history, a record a model; what is there is not added again.

    The stage's directory is replaced when it is done again; records stay, so that scores are lines over time.

    Args:
        directory: the stage's, in its run.
    """
    facts, folder = storage.read_manifest(directory).facts, directory.parent / FOLDER
    finished = float(facts.get("finished", 0.0))  # earlier versions did not note it
    since = [one for one in history(folder) if one["kind"] == "run" and one["created"] >= finished]
    there = {(one["model"]["path"], one["model"]["digest"]) for one in since}
    settings = facts["config"]["evaluate"]
    answers = settings["answers"]
    digests = {name: entry["content"] for name, entry in facts["inputs"].items() if name in _DOCUMENTS}
    digests |= {"answers": storage.digest_file(Path(answers))} if answers else {}
    for name, figures in storage.read_json(directory / SCORES)["models"].items():
        if (f"{name}/model", figures["digest"]) in there:
            continue
        model = {"name": f"{directory.resolve().parent.name}-{name}", "path": f"{name}/model"}
        record = new_record(
            "run",
            model={**model, "digest": figures["digest"], "parameters": figures["parameters"]},
            data={"path": answers or "held-out documents", "digest": storage.digest_json(digests), "inputs": digests},
            settings=settings,
            result={key: figures[key] for key in ("heldout", "answers") if key in figures},
            clock=lambda: finished or time.time(),
        )
        keep(record, folder)


def _evaluate_model(
    context: StageContext, model: ChatModel, tests: list[Conversation], references: dict[str, str], *, is_base: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    config: EvaluateConfig = context.config.evaluate
    result: dict[str, Any] = {"digest": model.digest, "parameters": model.network.config.num_parameters()}
    samples: dict[str, Any] = {}
    if "tokens" in context.inputs:
        found = _on_documents(context, model)
        result |= found.figures
        samples["spans"] = found.spans
    if tests:
        answered = ask(model, tests, max_tokens=config.max_answer_tokens, beams=config.beams)
        generation = {"temperature": 0, "beams": config.beams, "max_tokens": config.max_answer_tokens}
        result["answers"] = {**score(answered, references), "generation": generation}
        samples["answers"] = [_shown(item, references) for item in answered]
        right = result["answers"].get("right")
        if right is not None:
            say(f"  {model.name}: {right:.1%} of {len(tests)} test questions get the right answer")
    if is_base:
        samples["continuations"] = [_continue(model, prompt, config, context.seed) for prompt in config.prompts]
    return result, samples


class _OnDocuments(NamedTuple):
    """What held-out documents tell of a model; no figures where none was held out."""

    figures: dict[str, Any]
    spans: list[dict[str, Any]]


def _on_documents(context: StageContext, model: ChatModel) -> _OnDocuments:
    config: EvaluateConfig = context.config.evaluate
    losses = _losses(context.inputs["tokens"], model, config)
    if not losses:
        say(f"  {model.name}: no document was held out, so its bits per byte are not measured")
        return _OnDocuments({}, [])
    hardest = _hardest(losses, context.inputs.get("corpus"), config.worst_documents)
    figures: dict[str, Any] = {
        "heldout": _with_intervals(losses, seed=context.seed),
        "worst_documents": [_named(loss, document) for loss, document in hardest],
    }
    say(f"  {model.name}: {figures['heldout']['all']['bits_per_byte']:.3f} bits per byte on held-out documents")
    return _OnDocuments(figures, _spans(model, [document for _, document in hardest], config))


def _with_intervals(losses: Sequence[DocumentLoss], *, seed: int) -> dict[str, dict[str, Any]]:
    """Figures by domain, each domain of several documents with its 95 % intervals."""
    figures = by_domain(losses)
    for name in figures:
        members = [loss for loss in losses if name in ("all", domain_shown(loss.domain))]
        sums = [(loss.nats, loss.num_bytes, loss.tokens) for loss in members]
        totals = Totals(*np.asarray(sums, dtype=np.float64).T)
        figures[name] |= ratio_intervals(totals, seed=seed_for(seed, f"bootstrap {name}"))
    return figures


def _stride(model: ChatModel, config: EvaluateConfig) -> int:
    return max(1, int(model.context_length * config.stride_share))


def _losses(tokens: Path, model: ChatModel, config: EvaluateConfig) -> list[DocumentLoss]:
    stride = _stride(model, config)
    split = TokenData(tokens).split("heldout")
    return document_losses(model.network, split.documents(), begin=model.tokenizer.begin_of_text, stride=stride)


class _Hard(NamedTuple):
    loss: DocumentLoss
    document: Document


def _hardest(losses: list[DocumentLoss], corpus: Path | None, count: int) -> list[_Hard]:
    """The documents that the model finds hardest, a byte at a time, of those long enough to judge."""
    judged = [loss for loss in losses if loss.num_bytes >= 500]
    worst = sorted(judged, key=lambda loss: -loss.bits_per_byte)[:count]
    if corpus is None or not worst:
        return []
    numbers = {loss.number for loss in worst}
    documents = {
        number: document for number, document in enumerate(iter_documents(corpus, split="heldout")) if number in numbers
    }
    return [_Hard(loss, documents[loss.number]) for loss in worst]


def _named(loss: DocumentLoss, document: Document) -> dict[str, Any]:
    named = {"id": document.id, "path": document.path, "title": document.title}
    return {**named, "domain": loss.domain, "bits_per_byte": round(loss.bits_per_byte, 4)}


def _spans(model: ChatModel, documents: list[Document], config: EvaluateConfig) -> list[dict[str, Any]]:
    """The hardest passage of each of these documents, with the loss of its tokens."""
    windows = Windows.of(model, stride=_stride(model, config))
    texts = [Text(document.path or document.id, document.domain, document.text) for document in documents]
    return worst_spans(text_losses(model, texts, windows=windows), model.tokenizer, count=len(texts))


def _shown(item: Answered, references: dict[str, str]) -> dict[str, Any]:
    messages = [{"role": message.role, "content": message.content} for message in item.conversation.messages[:-1]]
    expected = item.conversation.label
    said = stated_label(item.answer, references) if references else None
    return {
        "messages": messages,
        "answer": item.answer,
        "finish": item.finish,
        "reference": item.reference,
        "expected": expected,
        "said": said,
    }


def _continue(model: ChatModel, prompt: str, config: EvaluateConfig, seed: int) -> dict[str, str]:
    sampling = Sampling(max_tokens=config.sample_tokens, temperature=0.7, top_p=0.9, seed=seed_for(seed, "samples"))
    return {"prompt": prompt, "continuation": model.generate(prompt, sampling)}


def _beginning(corpus: Path, num_bytes: int) -> Iterator[str]:
    """The first bytes of the training text; the document that they end in is cut there, before a whole character."""
    left = num_bytes
    for document in iter_documents(corpus, split="train"):
        data = document.text.encode()
        yield data[:left].decode(errors="ignore")
        left -= len(data)
        if left <= 0:
            return


def _baselines(corpus: Path, config: EvaluateConfig) -> dict[str, Any]:
    heldout = [document.text for document in iter_documents(corpus, split="heldout")]
    if not heldout:
        return {}

    trigram = round(ByteTrigram().learn(_beginning(corpus, config.baseline_bytes)).bits_per_byte(heldout), 5)
    compressed = round(xz_bits_per_byte(heldout), 5)
    say(f"  no neural network: byte trigrams {trigram:.3f}, xz -9e {compressed:.3f} bits per byte")
    return {"byte_trigram": trigram, "xz_9e": compressed}
