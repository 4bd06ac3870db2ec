"""DeepSpeed's engine, AdamW with averaged weights, and the fp32 numbers by name."""
