"""Directories with random damage: each opens whole or is refused by name, soon, in little memory, and runs nothing.

A few in the suite; many with `CHATWRIGHT_MUTATIONS=10000`, some minutes.
"""

import os
import random
import resource
import shutil
import sys
import time
from collections import Counter

import pytest

from chatwright.foundation import storage
from chatwright.foundation.errors import ChatwrightError
from chatwright.model.adapter import Adapter, LoraConfig
from chatwright.model.adapter_exchange import open_adapter
from chatwright.model.directory import load_model
from chatwright.model.peft_format import save_peft
from chatwright.tokens.shards import ShardWriter, TokenData, write_index

COUNT = int(os.environ.get("CHATWRIGHT_MUTATIONS", "60"))
SECONDS = 5.0 if COUNT < 1000 else 20.0  # of processor time for one; a second alone on a core
EXTRA_BYTES = 64 << 20
TOKENS = (
    b"-1",
    b"1e999",
    b"NaN",
    b"99999999999999999999",
    b"null",
    b"[]",
    b'"\\ud800"',
    b"\x00",
    b"{",
    b"]" * 50,
    b"true",
)
_found_classes: list[str] = []
_is_watching = [False]


def _watch(event, arguments):
    if _is_watching[0] and event in ("pickle.find_class", "exec", "os.system", "subprocess.Popen"):
        _found_classes.append(event)


def damaged(data, chance):
    """One file's bytes with a bit turned, a piece cut, doubled, moved or replaced by something that parsers dislike."""
    data = bytearray(data)
    place = chance.randrange(len(data)) if chance.random() < 0.5 else chance.randrange(min(len(data), 600))
    length = chance.choice((1, 2, 8, 64, 1000))
    kind = chance.randrange(6)
    if kind == 0:
        data[place] ^= 1 << chance.randrange(8)
    elif kind == 1:
        del data[place : place + length]
    elif kind == 2:
        data[place:place] = data[place : place + length]
    elif kind == 3:
        data[place : place + length] = chance.choice(TOKENS)
    elif kind == 4:
        data[place : place + length] = chance.randbytes(length)
    else:
        del data[place:]
    return bytes(data)


@pytest.fixture(scope="module")
def sound(tmp_path_factory, make_network, tiny_tokenizer):
    """A foreign model, an adapter of PEFT's and token shards, none with digests that would tell the damage at once."""
    from chatwright.model.directory import LINEAGE, save_model

    folder = tmp_path_factory.mktemp("sound")
    network = make_network()
    save_model(folder / "model", network, tiny_tokenizer, lineage={})
    (folder / "model" / LINEAGE).unlink()
    save_peft(folder / "adapter", Adapter(network, LoraConfig(rank=2)), network, base="b", base_digest="b" * 64)
    (folder / "adapter" / storage.MANIFEST).unlink()
    (folder / "tokens").mkdir()
    writer = ShardWriter(vocabulary_size=tiny_tokenizer.size, end_of_text=tiny_tokenizer.end_of_text)
    writer.add(tiny_tokenizer.encode("The ferry leaves at nine. " * 20), domain=0, num_bytes=500)
    shards = {split: [writer.save(folder / "tokens" / f"{split}-00000")] for split in ("train",)}
    write_index(folder / "tokens", shards, tokenizer="t", vocabulary=tiny_tokenizer.size, domains=["sea"])
    return folder


def opened(kind, place, network):
    if kind == "model":
        return load_model(place)
    if kind == "adapter":
        return open_adapter(place, network, base_digest="b" * 64)
    return [list(document.ids) for document in TokenData(place).split("train").documents()]


@pytest.mark.timeout(3600)
def test_damage_is_refused_by_name_or_harmless(sound, tmp_path, make_network):
    sys.addaudithook(_watch)
    network, outcomes, slow = make_network(), Counter(), []
    for kind in ("model", "adapter", "tokens"):
        opened(kind, sound / kind, network)  # imports and caches are not the damage's
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for number in range(COUNT):
        chance = random.Random(number)
        kind = ("model", "model", "adapter", "tokens")[number % 4]
        place = tmp_path / kind
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(sound / kind, place)
        victim = chance.choice(sorted(path for path in place.iterdir() if path.stat().st_size))
        victim.write_bytes(damaged(victim.read_bytes(), chance))
        began = time.process_time()
        _is_watching[0] = True
        try:
            opened(kind, place, network)
            outcomes[kind, "opens"] += 1
        except ChatwrightError:
            outcomes[kind, "refused"] += 1
        finally:
            _is_watching[0] = False
        took = time.process_time() - began
        assert took < SECONDS, (number, kind, victim.name, took)
        slow.append(took)
    rise = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    print(dict(outcomes), f"slowest {max(slow):.2f} s, memory +{rise >> 20} MiB")
    assert not _found_classes
    assert rise < EXTRA_BYTES
    assert all(outcomes[kind, "refused"] for kind in ("model", "adapter", "tokens"))
