"""Shards in parallel: Ray, and Ray in a process of its own."""
