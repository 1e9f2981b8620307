"""The loop, and what it needs: configuration, distribution, large batches, run folders."""
