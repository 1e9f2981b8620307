"""The nearest rows of a matrix: no ids, no texts."""
