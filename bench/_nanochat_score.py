"""Bits per byte of nanochat's newest model on given documents; runs in nanochat's environment, not in ours.

_nanochat_score.py DOCUMENTS     a JSON list of texts, each at most a context long; prints JSON
"""

import json
import math
import sys
from pathlib import Path

import torch
from nanochat.checkpoint_manager import load_model  # type: ignore[import-not-found]


@torch.inference_mode()
def main() -> None:
    texts = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    model, tokenizer, meta = load_model("base", torch.device("cpu"), "eval", model_tag="ours")
    nats = 0.0
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text, prepend="<|bos|>")])
        assert ids.shape[1] <= meta["max_seq_len"] + 1, "a document is longer than the context"
        nats += float(model(ids[:, :-1], ids[:, 1:], loss_reduction="none").sum())
    print(json.dumps({"bits_per_byte": nats / math.log(2) / sum(len(text.encode()) for text in texts)}))


if __name__ == "__main__":
    main()
