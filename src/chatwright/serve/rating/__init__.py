"""The page on which people rate: a small application of its own, behind the same guard as the chat."""
