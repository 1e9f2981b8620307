"""What `simcse doctor` looks at, a file a subject."""
