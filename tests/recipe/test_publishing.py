"""What a stage has done is not lost when publishing it fails, and what it could not do is tried again when asked."""

import errno
import shutil

import pytest
from tiny_recipe import write_recipe

from chatwright.data import clean_phases, collect, limits
from chatwright.foundation import storage
from chatwright.foundation.errors import StorageFullError
from chatwright.recipe.recipe import load_recipe
from chatwright.recipe.runner import run_recipe
from chatwright.tokens import stages as tokens

WORK = {
    "documents": (collect, "collect_partition"),
    "corpus": (clean_phases, "clean_partition"),
    "tokens": (tokens, "_encode_shard"),
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """A run up to its tokens: the recipe and the run's directory."""
    folder = tmp_path_factory.mktemp("publishing")
    recipe = write_recipe(folder, documents=12)
    run_recipe(load_recipe(recipe, [f"runs={folder / 'runs'}"]), until="tokenize")
    return recipe, folder / "runs" / "tiny"


@pytest.fixture
def copied(encoded, tmp_path):
    """The same in a folder of the test's own: its directory, and a function that runs it there."""
    recipe, run_dir = encoded
    place = tmp_path / "runs" / "tiny"
    shutil.copytree(run_dir, place)

    def run(**fields):
        loaded = load_recipe(recipe, [f"runs={tmp_path / 'runs'}"])
        return {one.stage: one for one in run_recipe(loaded, until="tokenize", **fields)}

    return place, run


def fail_to_publish(run, monkeypatch):
    """A run whose disk is full when the manifest is written."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_manifest", full)
        with pytest.raises(StorageFullError):
            run()


@pytest.mark.parametrize("stage", WORK)
def test_a_stage_that_failed_while_it_was_published_redoes_no_partition(copied, monkeypatch, stage):
    place, run = copied
    before = storage.read_manifest(place / stage).content
    shutil.rmtree(place / stage)
    fail_to_publish(run, monkeypatch)
    module, name = WORK[stage]
    monkeypatch.setattr(module, name, lambda *_: pytest.fail(f"{name} was called again"))
    states = {name: outcome.state for name, outcome in run().items()}
    assert [name for name, state in states.items() if state == "done"] == [stage]
    assert storage.verify(place / stage).content == before
    assert list((place / ".work").iterdir()) == []


def test_work_that_a_kill_left_behind_a_published_stage_is_removed(copied):
    place, run = copied
    key = storage.read_manifest(place / "tokens").facts["key"][:16]
    left = place / ".work" / f"tokens-{key}.work"
    left.mkdir()
    run()
    assert not left.exists()


def test_a_mark_without_its_shard_is_not_believed(copied, monkeypatch):
    place, run = copied
    before = storage.read_manifest(place / "tokens").content
    shutil.rmtree(place / "tokens")
    fail_to_publish(run, monkeypatch)
    (output,) = (path for path in (place / ".work").glob("tokens-*") if path.suffix != ".work")
    shutil.rmtree(output)
    run()
    assert storage.verify(place / "tokens").content == before


@pytest.fixture
def one_fails(copied, monkeypatch):
    """A run of which one of four partitions was set aside."""
    place, run = copied
    monkeypatch.setattr(limits, "PARTITION_INPUTS", 3)
    shutil.rmtree(place / "documents")
    called = []
    original = collect.collect_partition

    def failing(payload, path):
        called.append(payload.partition.label)
        if payload.partition.label == called[0]:
            raise MemoryError("killed")
        original(payload, path)

    with monkeypatch.context() as patch:
        patch.setattr(collect, "collect_partition", failing)
        run()
    return place, run


def test_a_partition_that_was_set_aside_is_tried_again_when_asked_and_no_other_is(one_fails, monkeypatch, capsys):
    _, run = one_fails
    assert run()["documents"].state == "unchanged"
    assert "(partitions: 1): the same command with `--again`" in capsys.readouterr().err
    called = []
    original = collect.collect_partition
    monkeypatch.setattr(collect, "collect_partition", lambda *given: called.append(given) or original(*given))
    outcomes = run(again=True)
    assert outcomes["documents"].summary["documents"] == 12
    assert len(called) == 1
    again = run(again=True)
    assert {outcome.state for outcome in again.values()} == {"unchanged"}


def test_the_corpus_is_then_that_of_a_run_in_which_nothing_failed(one_fails, encoded):
    place, run = one_fails
    run(again=True)
    for stage in ("documents", "corpus", "tokens"):
        assert storage.read_manifest(place / stage).content == storage.read_manifest(encoded[1] / stage).content
    assert list((place / ".work").iterdir()) == []
