"""How good a model is: perplexity by domain, answers against references, baselines that place the numbers."""
