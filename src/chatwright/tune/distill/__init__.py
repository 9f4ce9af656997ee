"""A small model learns from a large one: divergences, the teacher online or kept on disk, the stage `distill`."""
