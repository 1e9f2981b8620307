"""Evaluate an encoder: python evaluate.py --model PATH --tasks sts --data_dir DIR"""

from simcse.commands.evaluate import main
from simcse.console import run

if __name__ == "__main__":
    raise SystemExit(run(main))
