"""Raw tables to batches."""
