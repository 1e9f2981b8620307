"""Prompts: named texts to put before each text that is encoded, as sentence-transformers' checkpoints hold them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simcse.encoder.json_files import as_json, entry
from simcse.errors import ConfigError, ModelError, SimCSEError, did_you_mean

__all__ = ["ROLES", "check_prompts", "choose_prompt", "prompts_by_role", "read_prompts", "with_role"]

logger = logging.getLogger(__name__)
# names of the prompt of a text that is searched for, and of one that is found; the first that a checkpoint has counts
ROLES = {"query": ("query",), "document": ("document", "passage", "corpus")}


def with_role(role: str | None, prompts: Mapping[str, str], options: dict[str, Any]) -> dict[str, Any]:
    """Options of `encode` with the prompt of a role, where they name none and the checkpoint has one.

    Raises:
        ConfigError: no such role.
    """
    if role is None:
        return options
    if role not in ROLES:
        raise ConfigError(f"role {role!r} is not one of {', '.join(ROLES)}{did_you_mean(str(role), ROLES)}")
    name = next((name for name in ROLES[role] if name in prompts), None)
    if name is None or options.get("prompt") is not None or options.get("prompt_name") is not None:
        return options
    return {**options, "prompt_name": name}


def prompts_by_role(prompts: Mapping[str, str], default: str | None) -> dict[str, str]:
    """All prompts, and that of each role under the role's own name, where sentence-transformers looks for it first."""
    if not prompts:
        return {}
    found = {role: choose_prompt(prompts, default, **with_role(role, prompts, {})) for role in ROLES}
    return {**prompts, **found}


def choose_prompt(
    prompts: Mapping[str, str], default: str | None, prompt: str | None = None, prompt_name: str | None = None
) -> str:
    """The prompt itself, else the one of that name, else the default one; empty where there is none of them.

    Raises:
        ConfigError: no prompt has that name, or `prompt` is no text.
    """
    if prompt is not None:
        if not isinstance(prompt, str):
            raise ConfigError(f"prompt is of type {type(prompt).__name__}, expected a text")
        if prompt_name is not None:
            logger.warning("prompt and prompt_name are both given: prompt counts, prompt_name %r does not", prompt_name)
        return prompt
    name = default if prompt_name is None else prompt_name
    if name is None:
        return ""
    if not isinstance(name, str) or name not in prompts:
        known = f"is not one of {', '.join(prompts)}{did_you_mean(str(name), prompts)}" if prompts else "is unknown"
        remedy = "" if prompts else ": this encoder has no named prompts; give the text itself as prompt"
        raise ConfigError(f"prompt_name {name!r} {known}{remedy}")
    return prompts[name]


def check_prompts(prompts: object, default: object, error: type[SimCSEError], where: str) -> None:
    """Raise that error if prompts are no texts by name, or the default one is none of them."""
    if not isinstance(prompts, Mapping) or not all(isinstance(text, str) for item in prompts.items() for text in item):
        raise error(f"{where}'prompts' is {prompts!r:.60}, expected texts by name")
    if default is not None and default not in prompts:
        known = ", ".join(prompts) or "there are none"
        raise error(f"{where}'default_prompt_name' is {default!r:.60}, expected the name of a prompt ({known}) or none")


def read_prompts(settings: dict[str, Any], file: Path) -> tuple[dict[str, str], str | None]:
    """Prompts by name and the name of the default one, as a JSON file gives them.

    Raises:
        ModelError: they are of another type, or there is no default one of that name.
    """
    stored = entry(settings, "prompts", dict, file, {})
    prompts = {name: "" if text is None else text for name, text in stored.items()}
    if wrong := next((name for name, text in prompts.items() if not isinstance(text, str)), None):
        raise ModelError(f"{file}: prompt {wrong!r} is {as_json(prompts[wrong])}, expected a text")
    default = entry(settings, "default_prompt_name", str, file, None)
    check_prompts(prompts, default, ModelError, f"{file}: ")
    return prompts, default
