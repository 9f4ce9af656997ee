"""Duplicates over a whole corpus: shingles, MinHash signatures, verified pairs, clusters, repeats, decontamination."""
