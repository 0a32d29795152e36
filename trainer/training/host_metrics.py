"""Reads the machine's load, memory and temperature, and the power of a GPU.

All values are optional: containers hide sensors, most machines have no NVIDIA GPU, and `pynvml` is installed only with
the GPU packages. A value that cannot be read is None.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import psutil

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
BUSY = 0.5  # a GPU counts as under load from this share of its time, or of its power limit


@dataclass(frozen=True, slots=True)
class Reading:
    """The state of the machine at one time; unknown values are None.

    Attributes:
        load: load average over one minute.
        cpus: number of CPUs.
        memory_free: bytes available to programs, of `memory_total`.
        temperature_c: the highest sensor value outside the GPU.
        gpu_busy: utilisation of the busiest GPU, 0..1; the other GPU values are of the same GPU.
        gpu_limit_w: its power limit, in watts.
    """

    load: float | None = None
    cpus: int | None = None
    memory_free: int | None = None
    memory_total: int | None = None
    temperature_c: float | None = None
    gpu_busy: float | None = None
    gpu_power_w: float | None = None
    gpu_limit_w: float | None = None
    gpu_temperature_c: float | None = None

    @property
    def gpu_under_load(self) -> bool:
        """Whether a GPU is under load."""
        if self.gpu_power_w is not None and self.gpu_limit_w:
            return self.gpu_power_w >= BUSY * self.gpu_limit_w or (self.gpu_busy or 0) >= BUSY
        return (self.gpu_busy or 0) >= BUSY

    def describe(self) -> str:
        """In words, e.g. "load 1.9 on 2 CPUs, 0.4 of 8.0 GB memory free, GPU 98% busy at 210 of 220 W and 81 °C"."""
        parts = []
        if self.load is not None:
            parts.append(f"load {self.load:.1f}" + (f" on {self.cpus} CPUs" if self.cpus else ""))
        if self.memory_free is not None and self.memory_total is not None:
            parts.append(f"{self.memory_free / 1e9:.1f} of {self.memory_total / 1e9:.1f} GB memory free")
        if self.temperature_c is not None:
            parts.append(f"{self.temperature_c:.0f} °C")
        if self.gpu_busy is not None:
            parts.append(f"GPU {self.gpu_busy:.0%} busy{self._gpu_details()}")
        return ", ".join(parts) or "none"

    def _gpu_details(self) -> str:
        details = []
        if self.gpu_power_w is not None:
            limit = f" of {self.gpu_limit_w:.0f}" if self.gpu_limit_w else ""
            details.append(f"at {self.gpu_power_w:.0f}{limit} W")
        if self.gpu_temperature_c is not None:
            details.append(f"{'and' if details else 'at'} {self.gpu_temperature_c:.0f} °C")
        return "".join(f" {detail}" for detail in details)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Reading:
        """Parse a reading from JSON; unknown values are None."""
        known = {field.name for field in fields(cls)}
        numbers: dict[str, Any] = {name: value for name, value in values.items() if isinstance(value, int | float)}
        return cls(**{name: value for name, value in numbers.items() if name in known})


def read_machine() -> Reading:
    """Read the current state of the machine; never raises."""
    memory = _try(psutil.virtual_memory)
    load = _try(psutil.getloadavg)
    return Reading(
        load=load[0] if load else None,
        cpus=os.cpu_count(),
        memory_free=memory.available if memory else None,
        memory_total=memory.total if memory else None,
        temperature_c=_highest_temperature_c(),
        **_read_gpu(),
    )


def boot_id() -> str:
    """An id that changes with each boot of the machine."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


def _highest_temperature_c() -> float | None:
    sensors = _try(getattr(psutil, "sensors_temperatures", dict)) or {}
    return max((entry.current for entries in sensors.values() for entry in entries), default=None)


def _read_gpu() -> dict[str, float | None]:
    """The values of the busiest NVIDIA GPU; empty without a GPU or without `pynvml`."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # not installed, or no driver; the error types of pynvml need an import
        return {}
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        gpus = [_read_one_gpu(nvml, handle) for handle in handles]
    except nvml.NVMLError:
        return {}
    finally:
        nvml.nvmlShutdown()
    return max(gpus, key=lambda gpu: gpu["gpu_busy"] or 0, default={})


def _read_one_gpu(nvml: Any, handle: Any) -> dict[str, float | None]:
    def value(read: Callable[[], float], per: float = 1) -> float | None:
        try:
            return read() / per
        except nvml.NVMLError:  # some cards do not report all values
            return None

    return {
        "gpu_busy": value(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu, 100),
        "gpu_power_w": value(lambda: nvml.nvmlDeviceGetPowerUsage(handle), 1000),
        "gpu_limit_w": value(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle), 1000),
        "gpu_temperature_c": value(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
    }


def _try(read: Callable[[], Any]) -> Any:
    """Call `read`; returns None if this machine does not have the value."""
    try:
        return read()
    except (OSError, NotImplementedError, RuntimeError):
        return None
