"""The frequency of this processor's clock, which a guest without KVM cannot measure for itself.

QEMU's translated processor counts with the host's counter, so the host's figure is the guest's. The kernel knows it and
tells nobody, so the counter is read twice.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from functools import cache

_READ = bytes.fromhex("0f3148c1e2204809d0c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
_MEASURE_S = 0.2


@cache
def tsc_khz() -> int:
    """x86_64 only. Takes a fifth of a second, once."""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(_READ)
        place = ctypes.c_char.from_buffer(page)
        read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(place))
        first, began = int(read()), time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        time.sleep(_MEASURE_S)
        last, ended = int(read()), time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        del read, place
    return round((last - first) * 1_000_000 / (ended - began))
