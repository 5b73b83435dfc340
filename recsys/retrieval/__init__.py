"""A checkpoint to vectors, index and candidates."""
