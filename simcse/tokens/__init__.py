"""Text to token ids, without padding."""
