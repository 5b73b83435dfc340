"""Tensors to vectors and scores; no loss, no Lightning, no process group."""
