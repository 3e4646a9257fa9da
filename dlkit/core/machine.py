"""What this machine has left."""

from pathlib import Path

SPARED = 256 << 20
"""Bytes that are left to everything else on the machine."""


def free_bytes() -> int | None:
    """Memory that can be had without pushing anything out, within the limit of a container; None where unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    free = found.get("MemAvailable", 0)
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        group = Path("/sys/fs/cgroup", "memory" if "limit" in limit else "")
        try:
            most, held = (int((group / name).read_text()) for name in (limit, used))
        except (OSError, ValueError):  # no such control, or "max"
            continue
        free = min(free, max(most - held, 0))
    return max(free - SPARED, 0)
