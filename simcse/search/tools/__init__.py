"""What is done with an index: build, mine, find duplicates, search by words too."""
