"""The commands of `simcse`, one file a topic: read options, call the package, print. Nothing heavy is imported before
it is used.
"""
