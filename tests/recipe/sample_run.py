"""A small run as its stages would leave it, written by hand: every figure is known, nothing is trained."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chatwright.foundation import storage
from chatwright.model.config import ModelConfig
from chatwright.model.families import to_hugging_face

HOSTILE = "<script>alert('x')</script> & \"quoted\" </script><!--"
_VERSIONS = {"chatwright": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "platform": "Linux"}
_MADE_FROM = {
    "documents": (),
    "corpus": ("documents",),
    "tokenizer": ("corpus",),
    "tokens": ("corpus", "tokenizer"),
    "pretrain": ("tokens", "tokenizer"),
    "finetune": ("pretrain", "tokens"),
    "evaluate": ("tokens", "corpus", "pretrain", "finetune"),
}


STAGES = tuple(_MADE_FROM)


def write_run(run_dir: Path, *, stages: tuple[str, ...] = STAGES) -> Path:
    """Publish the named stages in `run_dir`; returns it."""
    contents: dict[str, str] = {}
    for number, name in enumerate(stages):
        with storage.publish(run_dir / name) as scratch:
            summary = _WRITERS[name](scratch)
        (run_dir / name / storage.MANIFEST).unlink()
        inputs = {
            source: {"content": contents[source], "path": source} for source in _MADE_FROM[name] if source in contents
        }
        facts = {
            "stage": name,
            "version": 1,
            "key": f"{number:064x}",
            "run": "sample",
            "inputs": inputs,
            "config": _CONFIGS.get(name),
            "seed": 7,
            "versions": _VERSIONS,
            "seconds": 1.5 * (number + 1),
            "peak_memory_bytes": 100_000_000 * (number + 1),
            "summary": summary,
        }
        contents[name] = storage.write_manifest(run_dir / name, facts).content
    (run_dir / "recipe.toml").write_text('name = "sample"\n', encoding="utf-8")
    return run_dir


_CONFIGS: dict[str, Any] = {
    "documents": {"sources": [{"kind": "files", "path": "/books", "domain": None}]},
    "pretrain": {"model": {"family": "qwen3"}, "pretrain": {"heldout_tokens": 8192}},
    "evaluate": {"evaluate": {"stride_share": 0.5}},
}


def _drop(count: int) -> dict[str, Any]:
    return {"count": count, "characters": 10 * count, "examples": [{"id": "", "path": HOSTILE, "detail": "17 words"}]}


def _documents(place: Path) -> dict[str, Any]:
    domains = {"books": {"documents": 90, "bytes": 80_000}, HOSTILE: {"documents": 10, "bytes": 20_000}}
    report = {
        "documents": 100,
        "characters": 99_000,
        "bytes": 100_000,
        "dropped": {"not_text": _drop(25)},
        "changed": {},
    }
    storage.write_json(place / "report.json", report | {"by_source": {}, "by_domain": domains})
    return {"documents": 100, "bytes": 100_000, "dropped": {"not_text": 25}}


def _corpus(place: Path) -> dict[str, Any]:
    books = {"documents": 80, "bytes": 70_000, "heldout_documents": 4, "heldout_bytes": 3_000}
    odd = {"documents": 5, "bytes": 5_000, "heldout_documents": 1, "heldout_bytes": 1_000}
    report = {
        "documents_in": 100,
        "documents_out": 85,
        "bytes_out": 75_000,
        "dropped": {"too_few_words": _drop(9), "near_duplicate": _drop(4), "exact_duplicate": _drop(2)},
        "changed": {
            "newlines": {"documents": 2, "places": 3},
            "pii_email": {"documents": 3, "places": 41},
            "site_lines": {
                "documents": 6,
                "places": 7,
                "examples": [{"path": HOSTILE, "detail": f"on 9 of 9: {HOSTILE}"}],
            },
        },
        "by_domain": {"books": books, HOSTILE: odd},
        "by_language": {"en": {"documents": 80, "bytes": 60_000}, HOSTILE: {"documents": 5, "bytes": 15_000}},
        "near_duplicates": {
            **{"near": "drop", "threshold": 0.7, "shingle_words": 5},
            **{"copies": 4, "candidate_pairs": 30, "compared_pairs": 12},
        },
        "site_lines": {"sites": 1, "pages": 9, "lines": 1},
        "repeated_paragraphs": {"paragraphs": 900, "distinct": 850, "repeated": 11},
    }
    storage.write_json(place / "report.json", report)
    pq.write_table(pa.table({"licence": ["MIT"] * 60 + [HOSTILE] * 25}), place / "part-00000.parquet")
    return {"documents_in": 100, "documents_out": 85, "bytes_out": 75_000}


def _tokenizer(place: Path) -> dict[str, Any]:
    (place / "tokenizer.json").write_text("{}")
    return {"kind": "bpe", "vocabulary_size": 512, "heldout_bytes_per_token": 3.1}


def _tokens(place: Path) -> dict[str, Any]:
    (place / "index.json").write_text("{}")
    train = {"tokens": 20_000, "documents": 80, "bytes": 71_000}
    by_domain = {"books": 19_000, HOSTILE: 1_000}
    return {"train": train, "heldout": {"tokens": 1_200, "documents": 5, "bytes": 4_000}, "by_domain": by_domain}


def write_model(place: Path, **shape: Any) -> None:
    """What is read of a stage's model: its shape."""
    (place / "model").mkdir()
    config = ModelConfig(vocabulary_size=512, **shape)
    storage.write_json(place / "model" / "config.json", to_hugging_face(config, begin=0, ends=[0], pad=0))


def _pretrain(place: Path) -> dict[str, Any]:
    write_model(place, layers=3)
    for step in (0, 50, 100):
        bits = {"all": 4.0 - step / 50, "books": 3.9 - step / 50, HOSTILE: 4.5 - step / 50}
        storage.append_line(
            place / "metrics.jsonl", {"event": "evaluation", "step": step, "seconds": step / 2, "bits_per_byte": bits}
        )
    for step in range(10, 101, 10):
        event = {"event": "step", "step": step, "seconds": step / 2, "loss": 8 - step / 25, "norm": 1.0}
        storage.append_line(place / "metrics.jsonl", event | {"tokens_per_second": 500.0})
    return {
        "steps": 100,
        "target_tokens": 1_000_000,
        "seconds": 50.0,
        "tokens_per_second": 20_000.0,
        "parameters": 123_456,
        "precision": "float32",
        "precision_reason": "as the recipe says",
        "device": "cpu",
        "threads": 2,
        "epochs": 50.0,
        "model_digest": "a" * 64,
        "evaluation": {"bits_per_byte": {"all": 2.0}},
    }


def _finetune(place: Path) -> dict[str, Any]:
    write_model(place, layers=3)
    for step in (0, 20):
        event = {"event": "evaluation", "step": step, "seconds": step / 2.0, "test_bits_per_byte": 3.0 - step / 10}
        storage.append_line(place / "metrics.jsonl", event)
    storage.append_line(
        place / "metrics.jsonl", {"event": "step", "step": 10, "seconds": 5.0, "loss": 2.5, "norm": 1.0}
    )
    storage.append_line(
        place / "metrics.jsonl", {"event": "step", "step": 20, "seconds": 10.0, "loss": 1.5, "norm": 1.0}
    )
    return {
        "method": "lora",
        "trained": 12_345,
        "total": 123_456,
        "share": 0.1,
        "steps": 20,
        "target_tokens": 5_000,
        "before": {"test_bits_per_byte": 3.0, "heldout": _heldout(2.0)},
        "after": {"test_bits_per_byte": 1.0, "heldout": _heldout(2.031)},
        "forgetting": {"all": 0.031, "books": 0.031},
        "model_digest": "b" * 64,
    }


def _heldout(bits: float) -> dict[str, Any]:
    def entry(value: float) -> dict[str, Any]:
        return {"bits_per_byte": round(value, 5), "perplexity": 70.5, "documents": 5, "tokens": 1_200, "bytes": 4_000}

    return {"all": entry(bits), "books": entry(bits - 0.1), HOSTILE: entry(bits + 0.3)}


def answered(number: int, *, is_right: bool) -> dict[str, Any]:
    """A test question about one of three labels, answered rightly or as if about `returns`."""
    label = ("opening", "delivery", "out-of-scope")[number % 3]
    return {
        "messages": [{"role": "user", "content": f"Question {number}? {HOSTILE}"}],
        "answer": f"Answer {number}",
        "reference": f"Answer {number}" if is_right else f"The right answer {number}",
        "expected": label,
        "said": label if is_right else "returns",
    }


def _evaluate(place: Path) -> dict[str, Any]:
    answers = [answered(number, is_right=number % 4 != 1) for number in range(60)]
    kinds = {"one turn": {"questions": 40, "right": 0.7}, "out of scope": {"questions": 20, "right": 0.85}}
    figures = {
        "questions": 60,
        "exact": 0.6,
        "token_f1": 0.8123,
        "bleu": 61.25,
        "bleu_signature": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0",
        "chrf": 70.5,
        "chrf_signature": "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0",
        "right": 0.75,
        "right_by_kind": kinds,
    }
    nothing = figures | {"right": 0.0, "exact": 0.0, "bleu": 0.5, "chrf": 9.5, "token_f1": 0.05}
    nothing["right_by_kind"] = {kind: entry | {"right": 0.0} for kind, entry in kinds.items()}
    worst = [{"id": "1", "path": HOSTILE, "title": "A hard one", "domain": "books", "bits_per_byte": 3.3}]
    figures |= {"right_95": [0.6277, 0.8422], "exact_95": [0.4737, 0.7143]}
    figures |= {"bleu_95": [50.05, 70.15], "chrf_95": [60.25, 80.35], "token_f1_95": [0.7512, 0.8723]}
    sure = _heldout(1.95)
    sure["all"] |= {"bits_per_byte_95": [1.8765, 2.0215], "perplexity_95": [64.11, 77.22]}
    scores = {
        "models": {
            "pretrain": {"digest": "a" * 64, "parameters": 123_456, "heldout": _heldout(1.9), "answers": nothing},
            "finetune": {
                "digest": "b" * 64,
                "parameters": 123_456,
                "heldout": sure,
                "worst_documents": worst,
                "answers": figures,
            },
        },
        "baselines": {"byte_trigram": 2.6, "xz_9e": 2.4},
    }
    storage.write_json(place / "scores.json", scores)
    samples = {
        "pretrain": {"answers": answers, "continuations": [{"prompt": "Once", "continuation": f" upon {HOSTILE}"}]},
        "finetune": {"answers": answers},
    }
    storage.write_json(place / "samples.json", samples)
    return scores


_WRITERS = {
    "documents": _documents,
    "corpus": _corpus,
    "tokenizer": _tokenizer,
    "tokens": _tokens,
    "pretrain": _pretrain,
    "finetune": _finetune,
    "evaluate": _evaluate,
}
