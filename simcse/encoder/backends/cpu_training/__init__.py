"""The training pass of a BERT, written out for the CPU."""
