"""One shard and its sidecar, and what the finished folder says about itself."""
