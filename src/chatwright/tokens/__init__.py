"""Token ids and their order: tokenizers, shards on disk, windows for training."""
