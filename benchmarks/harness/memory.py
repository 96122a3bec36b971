"""Memory that stays: what one call frees the next one gets, without asking the system for it page by page.

The C library gives large arrays back as soon as they are freed, and the next call waits while the system clears fresh
pages: a fifth of a layer's time on two cores, most of an elementwise operation's. A loop that trains holds its memory;
so should candidates that are called one by one, ours and other libraries' alike.
"""

import ctypes

# malloc.h of glibc: how many arrays may lie outside the heap, what may be free at its end, how many heaps there are.
_SETTINGS = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1), "M_ARENA_MAX": (-8, 1)}


def keep_freed() -> bool:
    """Let this process keep what it frees; whether its C library knows how. To be called before threads start."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(name, value) for name, value in _SETTINGS.values())
