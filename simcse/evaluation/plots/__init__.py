"""Pictures of runs, spaces and texts: each function returns a matplotlib figure of its numbers; nothing is global."""
