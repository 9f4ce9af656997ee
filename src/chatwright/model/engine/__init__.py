"""Many answers at once from one network: continuous batching over stored keys and values. Knows no HTTP, no turns."""
