"""What bash offers behind TAB, by the script that `simcse completion bash` prints."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from simcse.cli import COMMANDS, main

ASK = """
source {script}
function=$(complete -p simcse | grep -o -- '-F [^ ]*' | cut -c4-)
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
"$function"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def offered(tmp_path_factory):
    """Words -> what bash offers for the last of them."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    script = tmp_path_factory.mktemp("completion") / "simcse.bash"
    with pytest.MonkeyPatch.context() as patch, script.open("w") as file:
        patch.setattr("sys.stdout", file)
        assert main(["completion", "bash"]) == 0

    def ask(*words):
        command = ["bash", "--norc", "-c", ASK.format(script=script), "bash", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        assert done.stderr == ""
        return done.stdout.split()

    return ask


def test_every_command_is_offered(offered):
    assert set(offered("simcse", "")) == set(COMMANDS)
    assert offered("simcse", "eva") == ["evaluate"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("index s", ["search"]),
        ("index search --to", ["--top_k"]),
        (
            "train --optim.",
            ["--optim.lr", "--optim.weight_decay", "--optim.clip", "--optim.warmup", "--optim.ema_decay"],
        ),
        ("evaluate --aggregation w", ["wmean"]),
        ("recipes --j", ["--json"]),
        ("train --no_such_option", []),
    ],
)
def test_options_and_their_values_are_offered(offered, words, expected):
    assert offered("simcse", *words.split(" ")) == expected


def test_a_script_for_zsh_knows_every_command(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#compdef simcse\n")
    assert set(re.findall(r"^ +[\"']?([\w-]+):", script, flags=re.M)) >= set(COMMANDS)
    if zsh := shutil.which("zsh"):
        (tmp_path / "_simcse").write_text(script)
        subprocess.run([zsh, "-n", tmp_path / "_simcse"], check=True)


def test_another_shell_is_told_in_a_line(capsys: pytest.CaptureFixture[str]):
    assert main(["completion", "zhs"]) == 2
    assert capsys.readouterr().err == "error: SHELL: found 'zhs', expected bash or zsh; did you mean 'zsh'?\n"
