"""How the process deals with memory on a CPU."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # their numbers in glibc's malloc.h


def keep_freed_memory() -> None:
    """Let large blocks that are freed wait for their next use in this process; only glibc can do that.

    Otherwise they go back to the kernel, which zeroes every page of the next one: 7 % of the CPU time of
    eight edits. The process then holds the most that it ever needed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_MMAP_MAX, 0)  # every block on the heap
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)  # and the heap does not shrink
