"""Is a shard folder whole? Counts, hashes, and decoded samples against their records."""
