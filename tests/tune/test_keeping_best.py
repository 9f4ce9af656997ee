"""What a fine-tune keeps on its way, under several ranks: one of them alone has to do with the folder of the mean."""

import pytest

from chatwright.foundation import storage
from chatwright.foundation.config import validate
from chatwright.foundation.errors import RefusedError
from chatwright.model.directory import LoadedModel
from chatwright.tune.finetune_settings import FinetuneConfig
from chatwright.tune.keeping_best import Watch
from chatwright.tune.learned import Learned
from chatwright.tune.measuring import Answers, Task


def test_a_rank_that_is_not_the_first_leaves_the_mean_alone_while_it_is_replaced(
    make_network, tiny_tokenizer, tmp_path, monkeypatch
):
    fields = {"data": "x", "test": "y", "method": "all", "keeping": {"average_share": 0.5}}
    config = validate(FinetuneConfig, fields, where="recipe")
    base = LoadedModel(make_network(), tiny_tokenizer, {}, "digest")
    watch = Watch(
        learned=Learned(base, config, seed=1),
        network=base.network,
        task=Task(Answers([], 0), Answers([], 0), [], 0),
        before={},
        config=config.keeping,
        directory=tmp_path,
        first_averaged=1,
    )
    watch(1)
    kept = storage.read_manifest(tmp_path / "mean").files
    (weights,) = (tmp_path / "mean" / name for name in kept if name.endswith(".safetensors"))
    weights.unlink()
    with pytest.raises(RefusedError, match="is missing"):
        watch(2)
    monkeypatch.setenv("RANK", "1")
    watch(2)
