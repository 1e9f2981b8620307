"""Train a sentence encoder: python train.py --config configs/unsup-bert-base.yaml"""

from simcse.commands.train import main
from simcse.console import run

if __name__ == "__main__":
    raise SystemExit(run(main))
