"""The network, its adapters, its families by Hugging Face names, and how it writes text."""
