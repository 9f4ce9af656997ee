"""The one training loop: objectives, optimizers, checkpoints, ranks, held-out measurements."""
