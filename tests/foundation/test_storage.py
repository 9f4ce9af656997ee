"""Directories and files are published whole or not at all, and any damage to them is found."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from chatwright.foundation import storage
from chatwright.foundation.errors import ExitCode, RefusedError, StorageFullError

# Dies at the second rename: the older directory is aside, the newer one not yet in its place.
TORN = """
import os, signal, sys
from pathlib import Path
from chatwright.foundation import storage
renames = 0
def watch(event, arguments):
    global renames
    if event == "os.rename":
        renames += 1
        if renames == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
with storage.publish(Path(sys.argv[1])) as scratch:
    (scratch / "a.txt").write_text("new")
"""


def fill(final: Path, text: str, facts: dict | None = None) -> None:
    with storage.publish(final, facts) as scratch:
        (scratch / "a.txt").write_text(text)
        (scratch / "sub").mkdir()
        (scratch / "sub" / "b.bin").write_bytes(bytes(range(256)))


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def rewrite(final: Path, *, files: dict) -> None:
    """A manifest whose digests are right, as a hostile one's would be."""
    content = storage.digest_json(files)
    seal = storage.digest_json([content, {}])
    head = {"format": storage.MANIFEST_FORMAT, "version": 1, "content": content, "seal": seal}
    storage.write_json(final / storage.MANIFEST, {**head, "facts": {}, "files": files})


def test_a_published_directory_verifies_and_tells_its_facts(tmp_path):
    facts = {"seconds": 1.5, "curve": {10: 2.0, 9: 3.0}, "name": "Zürich"}
    fill(tmp_path / "made", "hello", facts)
    manifest = storage.verify(tmp_path / "made")
    assert sorted(manifest.files) == ["a.txt", "sub/b.bin"]
    assert manifest.facts == {"seconds": 1.5, "curve": {"10": 2.0, "9": 3.0}, "name": "Zürich"}
    assert names(tmp_path) == ["made"]


def test_equal_files_give_equal_content_whatever_the_facts(tmp_path):
    fill(tmp_path / "one", "hello", {"seconds": 1})
    fill(tmp_path / "two", "hello", {"seconds": 2})
    fill(tmp_path / "three", "other")
    contents = [storage.read_manifest(tmp_path / name).content for name in ("one", "two", "three")]
    assert contents[0] == contents[1] != contents[2]


def test_publishing_again_replaces_the_whole_directory(tmp_path):
    fill(tmp_path / "made", "old")
    with storage.publish(tmp_path / "made") as scratch:
        (scratch / "c.txt").write_text("new")
    assert names(tmp_path / "made") == ["c.txt", storage.MANIFEST]
    assert names(tmp_path) == ["made"]


def test_a_failure_while_filling_changes_nothing(tmp_path):
    fill(tmp_path / "made", "old")

    def fail() -> None:
        with storage.publish(tmp_path / "made") as scratch:
            (scratch / "a.txt").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (tmp_path / "made" / "a.txt").read_text() == "old"
    storage.verify(tmp_path / "made")
    assert names(tmp_path) == ["made"]


def test_a_scratch_directory_left_by_a_kill_is_not_mixed_in(tmp_path):
    (tmp_path / ".made.partial").mkdir()
    (tmp_path / ".made.partial" / "stale.txt").write_text("stale")
    fill(tmp_path / "made", "new")
    assert "stale.txt" not in names(tmp_path / "made")


def test_a_published_file_replaces_the_older_one_or_leaves_it(tmp_path):
    path = tmp_path / "deep" / "state.json"
    with storage.publish_file(path) as scratch:
        storage.write_json(scratch, {"step": 1})

    def fail() -> None:
        with storage.publish_file(path) as scratch:
            scratch.write_text("half")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - our own, above
        fail()
    assert storage.read_json(path) == {"step": 1}
    assert names(path.parent) == ["state.json"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
@pytest.mark.parametrize("publish", [storage.publish, storage.publish_file])
def test_a_full_disk_is_named_with_the_next_step_and_the_old_stays(tmp_path, publish):
    final = tmp_path / "made"
    with publish(final) as scratch:
        (scratch / "a.txt" if scratch.is_dir() else scratch).write_text("old")

    def write() -> None:
        with publish(final) as scratch:
            place = scratch / "a.txt" if scratch.is_dir() else scratch
            place.symlink_to("/dev/full")  # every write to it fails as on a full disk
            place.write_text("new")

    with pytest.raises(StorageFullError) as caught:
        write()
    assert str(tmp_path) in caught.value.what
    assert caught.value.kept
    assert "free some space" in (caught.value.hint or "")
    assert caught.value.exit_code == ExitCode.FAILED
    assert (final / "a.txt" if final.is_dir() else final).read_text() == "old"
    assert names(tmp_path) == ["made"]


def test_a_really_full_disk_harms_nothing_that_was_saved(tiny_disk):
    final = tiny_disk / "model"
    with storage.publish(final) as scratch:
        save_file({"w": torch.zeros(1000)}, scratch / "model.safetensors")

    def save() -> None:
        with storage.publish(final) as scratch:
            save_file({"w": torch.zeros(100_000)}, scratch / "model.safetensors")

    with pytest.raises(StorageFullError, match="no space left"):
        save()
    storage.verify(final)
    assert names(tiny_disk) == ["model"]


def test_a_full_disk_is_found_at_every_size_of_what_is_free(tiny_disk):
    fill(tiny_disk / "made", "old")
    held = (tiny_disk / "made" / "a.txt").stat().st_size
    outcomes = set()
    for size in range(0, 256 << 10, 24 << 10):
        try:
            with storage.publish(tiny_disk / "made") as scratch:
                (scratch / "a.txt").write_bytes(bytes(size))
        except StorageFullError:
            outcomes.add(False)
        else:
            held = size
            outcomes.add(True)
        storage.verify(tiny_disk / "made")
        assert names(tiny_disk) == ["made"]
        assert (tiny_disk / "made" / "a.txt").stat().st_size == held
    assert outcomes == {True, False}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"),
    ],
    ids=["full", "quota", "rust", "c++"],
)
def test_libraries_that_hide_the_errors_number_are_understood(tmp_path, error):
    with pytest.raises(StorageFullError), storage.full_disk_named(tmp_path):
        raise error


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(PermissionError), storage.full_disk_named(tmp_path):
        raise PermissionError(errno.EACCES, "no")


def test_a_write_that_cannot_fit_is_refused_before_it_begins(tmp_path):
    storage.require_free_space(tmp_path, 1)
    with pytest.raises(StorageFullError, match="needed"):
        storage.require_free_space(tmp_path, 1 << 60)


def test_a_failed_rename_puts_the_older_directory_back(tmp_path, monkeypatch):
    fill(tmp_path / "made", "old")
    real = os.fsync
    calls = []

    def fail_at_last(handle: int) -> None:
        calls.append(handle)
        if os.path.samestat(os.fstat(handle), tmp_path.stat()):
            raise OSError(errno.EIO, "Input/output error")
        real(handle)

    monkeypatch.setattr(os, "fsync", fail_at_last)
    with pytest.raises(OSError, match="Input/output"):
        fill(tmp_path / "made", "new")
    monkeypatch.undo()
    assert calls
    assert (tmp_path / "made" / "a.txt").read_text() == "old"
    storage.verify(tmp_path / "made")
    assert names(tmp_path) == ["made"]


def test_a_checkpoint_whose_sync_failed_is_not_published(tmp_path, monkeypatch):
    def fail(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        fill(tmp_path / "made", "new")
    assert names(tmp_path) == []


@pytest.mark.parametrize("rename", [1, 2])
def test_a_kill_between_the_renames_is_recovered(tmp_path, rename):
    fill(tmp_path / "made", "old")
    command = [sys.executable, "-c", TORN, str(tmp_path / "made"), str(rename)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    storage.recover(tmp_path)
    storage.verify(tmp_path / "made")
    assert (tmp_path / "made" / "a.txt").read_text() == "old"


def test_recovery_deletes_what_was_put_aside_when_the_new_one_is_there(tmp_path):
    fill(tmp_path / "made", "new")
    fill(tmp_path / ".made.old", "old")
    (tmp_path / ".notes.old").write_text("a person's own file")
    storage.recover(tmp_path)
    assert names(tmp_path) == [".notes.old", "made"]
    assert (tmp_path / "made" / "a.txt").read_text() == "new"


def test_every_flipped_bit_and_every_cut_is_found(tmp_path):
    final = tmp_path / "made"
    fill(final, "hello " * 50, {"key": "value", "loss": 1.25})
    rng = random.Random(7)
    for path in (final / "a.txt", final / "sub" / "b.bin", final / storage.MANIFEST):
        sound = path.read_bytes()
        meaning = json.loads(sound) if path.name == storage.MANIFEST else None
        for _ in range(60):
            place = rng.randrange(len(sound))
            damaged = bytearray(sound)
            damaged[place] ^= 1 << rng.randrange(8)
            if rng.random() < 0.3:
                damaged = damaged[:place]
            path.write_bytes(damaged)
            if meaning is not None and _same_json(bytes(damaged), meaning):
                continue  # one blank for another
            with pytest.raises(RefusedError) as caught:
                storage.verify(final)
            assert caught.value.exit_code == ExitCode.REFUSED
        path.write_bytes(sound)
    storage.verify(final)


def _same_json(data: bytes, value: object) -> bool:
    try:
        return json.loads(data) == value
    except ValueError:
        return False


def test_damage_names_the_file_and_what_is_wrong(tmp_path):
    fill(tmp_path / "made", "hello")
    (tmp_path / "made" / "a.txt").write_text("hell")
    with pytest.raises(RefusedError, match=r"`a.txt` has 4 bytes, its manifest says 5"):
        storage.verify(tmp_path / "made")
    (tmp_path / "made" / "a.txt").unlink()
    with pytest.raises(RefusedError, match="`a.txt` is missing"):
        storage.verify(tmp_path / "made")


def test_a_link_in_place_of_a_file_or_folder_is_refused(tmp_path):
    fill(tmp_path / "made", "hello")
    fill(tmp_path / "other", "hello")
    file = tmp_path / "made" / "a.txt"
    file.unlink()
    file.symlink_to(tmp_path / "other" / "a.txt")
    with pytest.raises(RefusedError, match="link"):
        storage.verify(tmp_path / "made")
    fill(tmp_path / "made", "hello")
    (tmp_path / "made" / "sub" / "b.bin").unlink()
    (tmp_path / "made" / "sub").rmdir()
    (tmp_path / "made" / "sub").symlink_to(tmp_path / "other" / "sub")
    with pytest.raises(RefusedError, match="link"):
        storage.verify(tmp_path / "made")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/../../secret"])
def test_a_manifest_that_names_a_file_outside_is_refused(tmp_path, name):
    fill(tmp_path / "made", "hello")
    rewrite(tmp_path / "made", files={name: {"bytes": 1, "sha256": "0"}})
    with pytest.raises(RefusedError, match="outside its directory"):
        storage.verify(tmp_path / "made")


@pytest.mark.parametrize("entry", [5, None, {}, {"bytes": "1", "sha256": "0"}, {"bytes": 1, "sha256": 0}])
def test_a_manifest_with_nonsense_entries_is_refused(tmp_path, entry):
    fill(tmp_path / "made", "hello")
    rewrite(tmp_path / "made", files={"a.txt": entry})
    with pytest.raises(RefusedError, match="lacks"):
        storage.verify(tmp_path / "made")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "not a chatwright manifest"),
        ('{"format": "other"}', "not a chatwright manifest"),
        ('{"format": "chatwright.manifest", "version": 99}', "another version"),
        ('{"format": "chatwright.manifest", "version": "1"}', "another version"),
        ('{"format": "chatwright.manifest", "version": 1, "files": []}', "damaged"),
        ("{" * 100_000, "not sound JSON"),
        ("\x00", "not sound JSON"),
    ],
)
def test_what_is_no_manifest_of_this_version_is_refused(tmp_path, text, said):
    (tmp_path / storage.MANIFEST).write_text(text)
    with pytest.raises(RefusedError, match=said):
        storage.read_manifest(tmp_path)


def test_a_json_file_that_is_missing_too_large_or_a_directory_is_refused(tmp_path):
    with pytest.raises(RefusedError, match="is missing"):
        storage.read_json(tmp_path / "none.json")
    with pytest.raises(RefusedError, match="cannot be read"):
        storage.read_json(tmp_path)
    (tmp_path / "big.json").write_text("[1, 2, 3]")
    with pytest.raises(RefusedError, match="too large"):
        storage.read_json(tmp_path / "big.json", max_bytes=4)


def test_nan_never_reaches_a_file(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(tmp_path / "a.json", {"loss": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        storage.append_line(tmp_path / "a.jsonl", {"loss": float("nan")})


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert storage.digest_json({"a": 1, "b": [2, "ü"]}) == storage.digest_json({"b": [2, "ü"], "a": 1})
    assert storage.digest_json({"\ud800": 1})  # a lone surrogate from a foreign file is no reason to fall over


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_published_directory_that_is_a_link_is_replaced_again_and_again_and_what_it_leads_to_stays(
    tmp_path, is_broken
):
    elsewhere, final = tmp_path / "elsewhere", tmp_path / "run" / "made"
    final.parent.mkdir()
    if not is_broken:
        fill(elsewhere, "old")
    final.symlink_to(elsewhere)
    for text in ("first", "second", "third"):
        with storage.publish(final) as scratch:
            (scratch / "a.txt").write_text(text)
        assert (final / "a.txt").read_text() == text
        assert names(final.parent) == ["made"]
    assert (elsewhere / "a.txt").exists() is not is_broken


def test_links_that_stand_in_the_way_of_publishing_and_setting_aside_give_way(tmp_path):
    fill(tmp_path / "made", "old")
    (tmp_path / "elsewhere").mkdir()
    for name in (".made.old", ".made.damaged", ".made.partial"):
        (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    storage.recover(tmp_path)
    fill(tmp_path / "made", "new")
    storage.set_aside(tmp_path / "made")
    assert names(tmp_path) == [".made.damaged", "elsewhere"]
    assert not (tmp_path / ".made.damaged").is_symlink()
