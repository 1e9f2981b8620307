"""`simcse quickstart` as a script: python examples/python_docs/quickstart.py"""

from simcse.commands.quickstart import main
from simcse.console import run

if __name__ == "__main__":
    raise SystemExit(run(main))
