"""Pictures of runs, spaces and texts: each function takes numbers and gives a matplotlib figure; nothing is global."""
