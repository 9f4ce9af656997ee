"""The stage `evaluate`: what it stores of documents and answers, and nothing of what was not there to measure."""

import math
from pathlib import Path

import numpy as np
import pytest

from chatwright.data.document import CORPUS_SCHEMA, Document, PartWriter
from chatwright.evaluate import stage
from chatwright.evaluate.baselines import ByteTrigram
from chatwright.evaluate.records import FOLDER, history
from chatwright.evaluate.stage import SCORES, EvaluateConfig, EvaluateInputs, keep_records, run
from chatwright.foundation import storage
from chatwright.foundation.stage import StageContext
from chatwright.foundation.stopping import StopFlag
from chatwright.tokens.stages import run_tokens
from chatwright.train.heldout import DocumentLoss

TEXTS = [f"The ferry number {number} leaves the harbour at nine. " * (6 + number) for number in range(8)]


def write_corpus(place, *, heldout):
    with storage.publish(place) as scratch, PartWriter(scratch / "part-00000.parquet", CORPUS_SCHEMA) as out:
        for number, text in enumerate(TEXTS):
            split = "heldout" if number in heldout else "train"
            out.add(Document(id=str(number), text=text, source="s", path=str(number), domain="d", split=split))


@pytest.fixture(params=["some", "none"])
def measured(request, tmp_path, tiny_directory):
    """Scores of the tiny model on a corpus of which some documents, or none, were held out; and the stage's folder."""
    run_dir = tmp_path / "run"
    write_corpus(run_dir / "corpus", heldout=range(5) if request.param == "some" else ())
    inputs = {"corpus": run_dir / "corpus", "tokenizer": Path(tiny_directory)}
    with storage.publish(run_dir / "tokens") as scratch:
        run_tokens(_context(None, inputs, scratch))
    inputs = {"tokens": run_dir / "tokens", "corpus": run_dir / "corpus", "pretrain": run_dir / "pretrain"}
    (run_dir / "pretrain").mkdir()
    (run_dir / "pretrain" / "model").symlink_to(tiny_directory)
    config = EvaluateInputs(evaluate=EvaluateConfig(baselines=False, threads=1))
    told = {"inputs": {name: {"content": "c"} for name in inputs}, "config": config.model_dump(mode="json")}
    with storage.publish(run_dir / "evaluate", told) as scratch:
        scores = run(_context(config, inputs, scratch))
    keep_records(run_dir / "evaluate")
    return request.param == "some", scores, run_dir


def _context(config, inputs, output):
    return StageContext(
        config=config, inputs=inputs, output=output, seed=3, lineage={}, workers=1, engine="local", stop=StopFlag()
    )


def test_bits_per_byte_have_intervals_and_are_left_out_where_no_document_was_held_out(measured, capsys):
    are_there, scores, run_dir = measured
    assert storage.read_json(run_dir / "evaluate" / SCORES) == scores
    model = scores["models"]["pretrain"]
    assert ("heldout" in model) is are_there
    assert ("worst_documents" in model) is are_there
    (record,) = history(run_dir / FOLDER)
    assert ("heldout" in record["result"]) is are_there
    if not are_there:
        return
    values = model["heldout"]["all"]
    assert values["documents"] == 5
    for key in ("bits_per_byte", "perplexity"):
        low, high = values[f"{key}_95"]
        assert low < values[key] < high
    rate = math.log(2) * values["bits_per_byte"] * values["bytes"] / values["tokens"]
    assert values["perplexity"] == pytest.approx(math.exp(rate), rel=1e-3)
    assert model["heldout"]["d"]["bits_per_byte_95"] == pytest.approx(values["bits_per_byte_95"], rel=0.02)
    assert np.isfinite(values["perplexity_95"]).all()


def test_a_domain_called_all_has_its_own_interval_beside_that_of_all_documents():
    losses = [DocumentLoss(name, 10.0 + n, 5, 20, n) for n, name in enumerate(("all", "all", "d", "d"))]
    figures = stage._with_intervals(losses, seed=1)
    assert {name: values["documents"] for name, values in figures.items()} == {"all": 4, "all (domain)": 2, "d": 2}
    for values in figures.values():
        low, high = values["bits_per_byte_95"]
        assert low < values["bits_per_byte"] < high


def test_the_trigrams_learn_what_their_bytes_allow_though_the_first_document_is_longer(tmp_path):
    write_corpus(tmp_path / "corpus", heldout=range(1, 8))
    config = EvaluateInputs(evaluate=EvaluateConfig(baseline_bytes=100, threads=1))
    (tmp_path / "out").mkdir()
    scores = run(_context(config, {"corpus": tmp_path / "corpus"}, tmp_path / "out"))
    alone = ByteTrigram().learn([TEXTS[0][:100]]).bits_per_byte(TEXTS[1:])
    assert scores["baselines"]["byte_trigram"] == pytest.approx(alone, abs=1e-5)
    assert alone < 8
