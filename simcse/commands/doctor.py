"""`simcse doctor`."""

from __future__ import annotations

from simcse.commands.shared import Format, as_text, print_json
from simcse.display.progress import waiting

__all__ = ["doctor"]


def doctor(*, format: Format = "text") -> None:
    """Look at this machine and installation, and give advice.

    Versions, devices, threads, folders, extras; each backend that encoding would use is tried on a small model. Exit
    status 1 if something is broken.

    Args:
        format: text, or json; auto is text on a terminal, and json where output is piped
    """
    from simcse.commands.diagnosis.backends import backends, compiler_and_cache
    from simcse.commands.diagnosis.finding import as_json, lines
    from simcse.commands.diagnosis.machine import devices, memory_and_disks, processor, threads
    from simcse.commands.diagnosis.packages import extras, versions

    with waiting("importing torch and others, trying each backend"):
        sections = {"Versions": list(versions())}
        if not any(finding.broken for finding in sections["Versions"]):  # else little of the rest can run
            sections |= {
                "Processor": list(processor()),
                "Devices": list(devices()),
                "Kernel": list(compiler_and_cache()),
                "Encoding by precision": list(backends()),
                "Threads": list(threads()),
                "Memory and folders": list(memory_and_disks()),
            }
        sections["Extras"] = list(extras())
    if as_text(format):
        print(*lines(sections), sep="\n")
    else:
        print_json(as_json(sections))
    if any(finding.broken for findings in sections.values() for finding in findings):
        raise SystemExit(1)
