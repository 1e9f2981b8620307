"""Processor, accelerators, threads, memory and disks, with the limits that a container sets."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from simcse.commands.diagnosis.finding import Finding

__all__ = ["cores", "devices", "memory_and_disks", "processor", "threads"]

CGROUPS = Path("/sys/fs/cgroup")
# what decides how fast a CPU encodes, of the many that it has
TELLING = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")
GIB = 2**30
LITTLE_MEMORY, LITTLE_DISK = 2 * GIB, 5 * GIB  # below, a base-sized model or its download hardly fit
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "CXX")


def processor() -> Iterator[Finding]:
    """Its name and what it can do."""
    import torch

    from simcse.encoder.backends.cpu_features import cpu_flags

    flags = [name for name in TELLING if name in cpu_flags()]
    yield Finding("CPU", cpu_name())
    yield Finding("instruction sets", ", ".join(flags) or "not known on this system")
    yield Finding("torch uses", torch.backends.cpu.get_cpu_capability())


def cpu_name() -> str:
    """As Linux has it, elsewhere as Python does."""
    try:
        listed = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        listed = ""
    names = [line.partition(":")[2].strip() for line in listed.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def devices() -> Iterator[Finding]:
    """Where torch can compute, and which device and precision `auto` picks."""
    import torch

    from simcse.encoder.device import pick_device, pick_dtype

    count = torch.cuda.device_count()
    for number in range(count):
        about = torch.cuda.get_device_properties(number)
        capability = ".".join(map(str, torch.cuda.get_device_capability(number)))
        yield Finding(f"cuda:{number}", f"{about.name}, {about.total_memory / GIB:.0f} GiB, capability {capability}")
    if not count:
        driver = shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").is_dir()
        yield Finding(
            "CUDA",
            f"none that torch {torch.__version__} sees" + (", but NVIDIA's driver is here" if driver else ""),
            "install torch's CUDA build for this driver, and look at CUDA_VISIBLE_DEVICES" if driver else None,
        )
    place = pick_device("auto")
    yield Finding("auto", f"{place}, {str(pick_dtype('auto', place)).removeprefix('torch.')}")


def cores() -> int:
    """That this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> Iterator[Finding]:
    """How many threads torch uses of the cores that there are; what the environment says."""
    import torch

    here, used, quota = cores(), torch.get_num_threads(), cpu_limit()
    yield Finding("cores", f"{here} of {os.cpu_count()} for this process")
    yield Finding("cgroup CPU limit", "none" if quota is None else f"{quota:g} cores")
    room = max(1, min(here, int(quota or here)))
    advice = None
    if used > room:
        advice = f"threads wait for each other: export OMP_NUM_THREADS={room}"
    elif used < room and "OMP_NUM_THREADS" in os.environ:
        advice = f"OMP_NUM_THREADS keeps torch from {room - used} of {room} cores: unset it, unless others need them"
    yield Finding("torch's threads", str(used), advice)
    yield from (Finding(name, os.environ[name]) for name in VARIABLES if name in os.environ)


def cpu_limit() -> float | None:
    """Cores' worth of time that the cgroups of this process allow; None without a limit."""
    limits = []
    for text in cgroup_files("cpu.max"):  # version 2: "200000 100000", or "max 100000"
        quota, _, period = text.partition(" ")
        if quota.isdecimal() and period.isdecimal():
            limits.append(int(quota) / int(period))
    try:  # version 1
        folder = CGROUPS / "cpu"
        spent = [int((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii")) for name in ("quota", "period")]
        limits += [spent[0] / spent[1]] if spent[0] > 0 else []
    except (OSError, ValueError):
        pass
    return min(limits, default=None)


def cgroup_files(name: str) -> Iterator[str]:
    """The content of a file in the cgroup of this process, and in each above it."""
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8")
    except OSError:
        return
    path = next((line[3:] for line in own.splitlines() if line.startswith("0::")), "/")
    folder = CGROUPS / path.strip("/")
    for place in (folder, *folder.parents):
        if place == CGROUPS.parent:
            return
        try:
            yield (place / name).read_text(encoding="ascii").strip()
        except OSError:
            continue


def memory_and_disks() -> Iterator[Finding]:
    """What is free of the memory, and where files are written."""
    free, limited = free_memory()
    if free is not None:
        yield Finding(
            "memory",
            f"{free / GIB:.1f} GiB free{' below the limit of the cgroup' if limited else ''}",
            "a base-sized encoder needs 2 GiB to train: close something, or lower --micro_batch_size"
            if free < LITTLE_MEMORY
            else None,
        )
    from huggingface_hub import constants

    places = {"working folder": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    for name, folder in (places | {"downloaded models": Path(constants.HF_HUB_CACHE)}).items():
        yield disk(name, folder)


def free_memory() -> tuple[int | None, bool]:
    """Bytes, and whether it is a cgroup that leaves no more; None where the system does not tell."""
    try:
        listed = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return None, False
    free = next(1024 * int(line.split()[1]) for line in listed.splitlines() if line.startswith("MemAvailable:"))
    pairs = zip(cgroup_files("memory.max"), cgroup_files("memory.current"), strict=False)
    left = min((int(most) - int(used) for most, used in pairs if most.isdecimal()), default=free)
    return max(0, min(free, left)), left < free


def disk(name: str, folder: Path) -> Finding:
    """What is free there, and whether it can be written to."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    shown = f"{folder}, {free / GIB:.0f} GiB free"
    if not os.access(there, os.W_OK):
        remedy = {"downloaded models": "HF_HOME", "temporary files": "TMPDIR"}.get(name)
        advice = f"name another by {remedy}" if remedy else "results go to the folder that --output names"
        return Finding(name, f"{shown}, cannot be written to", advice)
    return Finding(name, shown, "free some space: checkpoints fill it soon" if free < LITTLE_DISK else None)
