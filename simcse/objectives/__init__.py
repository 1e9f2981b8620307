"""Vectors in, loss out: pure functions of tensors that know no model, no file and no config."""
