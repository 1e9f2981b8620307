"""An encoder as a graph that other runtimes compute."""
