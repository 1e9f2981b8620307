"""Make a training corpus from Python sources: python examples/python_docs/make_corpus.py --output DIR"""

from simcse.commands.python_docs import main

if __name__ == "__main__":
    raise SystemExit(main())
