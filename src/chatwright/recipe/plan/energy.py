"""How much power the machine draws, where it tells: RAPL for processors (Linux), NVML for NVIDIA GPUs. Else None."""

import time
from pathlib import Path

import torch

_POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Measures from its making on. A reading that the system refuses or does not have is None, never a guess."""

    def __init__(self, device: torch.device, *, powercap: Path = _POWERCAP):
        self._device = device
        self._zones = _packages(powercap)
        self._began = time.monotonic()
        self._first = [_number(zone / "energy_uj") for zone in self._zones]

    def watts(self) -> float | None:
        """Mean of the processors since the making, plus what the GPU draws now if that is the device."""
        processors = self._processor_watts()
        if self._device.type != "cuda":
            return processors
        gpu = _gpu_watts(self._device)
        return None if gpu is None else gpu + (processors or 0.0)

    def _processor_watts(self) -> float | None:
        seconds = time.monotonic() - self._began
        spent = 0.0
        for zone, first in zip(self._zones, self._first, strict=True):
            now, turn = _number(zone / "energy_uj"), _number(zone / "max_energy_range_uj")
            if first is None or now is None:
                return None
            spent += now - first if now >= first else now - first + (turn or 0)  # the counter begins anew when full
        return spent / 1e6 / seconds if self._zones and seconds > 0 and spent > 0 else None


def _packages(powercap: Path) -> list[Path]:
    """Whole processors; their parts, such as cores and memory, are within."""
    return sorted(zone for zone in powercap.glob("intel-rapl:*") if zone.name.count(":") == 1)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _gpu_watts(device: torch.device) -> float | None:
    try:
        return float(torch.cuda.power_draw(device)) / 1000
    except Exception:  # noqa: BLE001 - NVML's errors have no other base, and no reading is worth a plan
        return None
