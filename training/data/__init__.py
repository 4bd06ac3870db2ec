"""Shards, near or remote, to batches in one exact global order."""
