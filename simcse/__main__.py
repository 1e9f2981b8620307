"""`python -m simcse` is the `simcse` command."""

from simcse.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
