"""Which models there are, their weights, and their full-precision embeddings."""
