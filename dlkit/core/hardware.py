"""Accelerators: dense peaks (no sparsity), memory, power, and where the figures come from.

Vendors print tensor-core peaks with 2:4 sparsity, twice what a dense network can reach; these are the dense ones.
Memory is the nominal size, which vendors call GB and build in GiB.
"""

from typing import Any, NamedTuple

from dlkit.core import units
from dlkit.core.errors import DlkitError, nearest

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "fp8")


class Accelerator(NamedTuple):
    """One device: dense peaks in TFLOP/s by precision, memory in GiB, board power in watts (None: not published)."""

    name: str
    title: str
    peaks: dict[str, float]
    gib: int
    watts: int | None
    source: str

    def peak(self, precision: str) -> int:
        """Dense FLOP/s at `precision`; DlkitError names the ones it has."""
        if precision not in self.peaks:
            raise DlkitError(f"no {precision} peak is published for {self.name}: it has {', '.join(self.peaks)}")
        return round(self.peaks[precision] * 10**12)

    @property
    def memory(self) -> int:
        """Bytes."""
        return self.gib << 30


def _peaks(half: float, **others: float) -> dict[str, float]:
    """16-bit formats run at one speed on all but the oldest."""
    return {"fp16": half, "bf16": half} | others


_VOLTA, _TURING = {"fp16": 125.0, "fp32": 15.7}, {"fp16": 65.0, "fp32": 8.1}
_AMPERE = _peaks(312, fp32=19.5, tf32=156)
_HOPPER = _peaks(989, fp32=67, tf32=494.5, fp8=1979)
_H100_PCIE, _H100_NVL = _peaks(756, fp32=51, tf32=378, fp8=1513), _peaks(835.5, fp32=60, tf32=417.5, fp8=1670.5)
_BLACKWELL = _peaks(2250, fp32=75, tf32=1125, fp8=4500)
_CDNA3 = _peaks(1307.4, fp32=163.4, tf32=653.7, fp8=2614.9)
_TRAINIUM = ({"tf32": 190.0, "fp32": 47.5}, {"tf32": 667.0, "fp32": 181.0, "fp8": 1299.0})

# Tensor peaks of GeForce cards are those with fp32 sums, which training needs: half of what is printed first.
_ROWS: tuple[tuple[str, str, dict[str, float], int, int | None, str], ...] = (
    ("t4", "T4 16GB", _TURING, 16, 70, "NVIDIA T4 datasheet"),
    ("v100", "V100 SXM2 32GB", _VOLTA, 32, 300, "NVIDIA V100 datasheet"),
    ("v100-16", "V100 SXM2 16GB", _VOLTA, 16, 300, "NVIDIA V100 datasheet"),
    ("a10", "A10 24GB", _peaks(125, fp32=31.2, tf32=62.5), 24, 150, "NVIDIA A10 datasheet"),
    ("a30", "A30 24GB", _peaks(165, fp32=10.3, tf32=82), 24, 165, "NVIDIA A30 datasheet"),
    ("a40", "A40 48GB", _peaks(149.7, fp32=37.4, tf32=74.8), 48, 300, "NVIDIA A40 datasheet"),
    ("a6000", "RTX A6000 48GB", _peaks(154.8, fp32=38.7, tf32=77.4), 48, 300, "NVIDIA RTX A6000 datasheet"),
    ("a100", "A100 SXM 80GB", _AMPERE, 80, 400, "NVIDIA A100 datasheet"),
    ("a100-40", "A100 SXM 40GB", _AMPERE, 40, 400, "NVIDIA A100 datasheet"),
    ("a100-pcie", "A100 PCIe 80GB", _AMPERE, 80, 300, "NVIDIA A100 datasheet"),
    ("h100", "H100 SXM 80GB", _HOPPER, 80, 700, "NVIDIA H100 datasheet"),
    ("h100-pcie", "H100 PCIe 80GB", _H100_PCIE, 80, 350, "NVIDIA H100 datasheet"),
    ("h100-nvl", "H100 NVL 94GB", _H100_NVL, 94, 400, "NVIDIA H100 datasheet"),
    ("h200", "H200 SXM 141GB", _HOPPER, 141, 700, "NVIDIA H200 datasheet"),
    ("h20", "H20 96GB", _peaks(148, fp32=44, tf32=74, fp8=296), 96, 400, "NVIDIA H20 datasheet"),
    ("b200", "B200 180GB", _BLACKWELL, 180, 1000, "NVIDIA HGX B200 datasheet"),
    ("b300", "B300 288GB", _BLACKWELL, 288, None, "NVIDIA HGX B300 datasheet"),
    ("gb200", "GB200, one GPU", _peaks(2500, tf32=1250, fp8=5000), 186, 1200, "NVIDIA GB200 NVL72 datasheet"),
    ("l4", "L4 24GB", _peaks(121, fp32=30.3, tf32=60, fp8=242.5), 24, 72, "NVIDIA L4 datasheet"),
    ("l40s", "L40S 48GB", _peaks(362, fp32=91.6, tf32=183, fp8=733), 48, 350, "NVIDIA L40S datasheet"),
    ("rtx3090", "RTX 3090 24GB", _peaks(71, fp32=35.6, tf32=35.6), 24, 350, "NVIDIA GA102 whitepaper"),
    ("rtx4090", "RTX 4090 24GB", _peaks(165.2, fp32=82.6, tf32=82.6, fp8=330.3), 24, 450, "NVIDIA Ada whitepaper"),
    ("rtx5090", "RTX 5090 32GB", _peaks(209.5, fp32=104.8, fp8=419), 32, 575, "NVIDIA RTX Blackwell whitepaper"),
    ("mi250x", "MI250X 128GB", _peaks(383, fp32=95.7), 128, 560, "AMD MI250X datasheet"),
    ("mi300x", "MI300X 192GB", _CDNA3, 192, 750, "AMD MI300X datasheet"),
    ("mi325x", "MI325X 256GB", _CDNA3, 256, 1000, "AMD MI325X datasheet"),
    ("mi355x", "MI355X 288GB", _peaks(2516.6, fp32=157.3, fp8=5033.2), 288, 1400, "AMD MI355X datasheet"),
    ("tpu-v3", "TPU v3", {"bf16": 123}, 32, None, "Google Cloud TPU documentation"),
    ("tpu-v4", "TPU v4", {"bf16": 275}, 32, 192, "Google Cloud; power: Jouppi et al. 2023"),
    ("tpu-v5e", "TPU v5e", {"bf16": 197}, 16, None, "Google Cloud TPU documentation"),
    ("tpu-v5p", "TPU v5p", {"bf16": 459}, 95, None, "Google Cloud TPU documentation"),
    ("tpu-v6e", "TPU v6e Trillium", {"bf16": 918}, 32, None, "Google Cloud TPU documentation"),
    ("tpu-v7x", "TPU7x Ironwood", {"bf16": 2307, "fp8": 4614}, 192, None, "Google Cloud TPU documentation"),
    ("trainium1", "Trainium", _peaks(190, **_TRAINIUM[0]), 32, None, "AWS Neuron documentation"),
    ("trainium2", "Trainium2", _peaks(667, **_TRAINIUM[1]), 96, None, "AWS Neuron documentation"),
    ("gaudi2", "Gaudi 2 96GB", {"bf16": 432, "fp8": 865}, 96, 600, "Intel Gaudi 2 white paper"),
)
_ALIASES = {
    "a100-80": "a100",
    "a100-80gb": "a100",
    "a100-sxm": "a100",
    "a100-40gb": "a100-40",
    "h100-sxm": "h100",
    "h200-sxm": "h200",
    "v100-32": "v100",
    "rtx-3090": "rtx3090",
    "rtx-4090": "rtx4090",
    "rtx-5090": "rtx5090",
    "rtx-a6000": "a6000",
    "trn1": "trainium1",
    "trn2": "trainium2",
    "gaudi-2": "gaudi2",
    "trillium": "tpu-v6e",
    "ironwood": "tpu-v7x",
}


def names() -> list[str]:
    """The accelerators in the table."""
    return [row[0] for row in _ROWS]


def accelerator(name: str) -> Accelerator:
    """The accelerator called `name`; DlkitError names the nearest where there is none."""
    plain = name.lower().replace("_", "-").replace(" ", "-")
    plain = _ALIASES.get(plain, plain)
    for row in _ROWS:
        if row[0] == plain:
            return Accelerator(*row)
    raise DlkitError(f"unknown accelerator {name!r}: {nearest(plain, names())}", f"known: {_listed()}")


class Job(NamedTuple):
    """Devices, and what is known of how they run: a utilisation, a measured speed, or measured GPU-hours.

    `mfu` is model FLOPs over peak, `hfu` counts recomputed ones too (Chowdhery et al. 2022, appendix B).
    """

    gpu: str | None = None
    gpus: int | None = None
    precision: str | None = None
    mfu: float | None = None
    hfu: float | None = None
    tokens_per_second: float | None = None
    gpu_hours: float | None = None
    price: float | None = None  # for a GPU-hour
    watts: float | None = None
    pue: float | None = None  # power of the data centre over the devices': at least 1; unless given, 1
    carbon: float | None = None  # kg CO2 for a kWh

    def estimate(self, model: int, again: int, tokens: int | None, whole: bool) -> dict[str, Any]:
        """Time, cost and energy of `model` FLOPs and `again` recomputed ones, and the assumptions; unknown is None.

        `tokens` are those of the same run, or of one sample where `whole` is false: then only MFU and HFU are known.
        DlkitError names an option that nothing comes of.
        """
        self._agree(whole)
        device = accelerator(self.gpu) if self.gpu is not None else None
        precision = self._precision(device)
        peak = device.peak(precision) if device and precision else None
        seconds = self._gpu_seconds(model, again, tokens, peak)
        used = seconds * peak if seconds and peak else None
        hours = seconds / 3600 if seconds and whole else None
        watts = self.watts if self.watts is not None else device.watts if device else None
        energy = hours * watts * (self.pue or 1) / 1000 if hours and watts else None
        found = {
            "gpu_hours": hours,
            "days": hours / 24 / self.gpus if hours and self.gpus else None,
            "cost": hours * self.price if hours and self.price is not None else None,
            "energy_kwh": energy,
            "co2_kg": energy * self.carbon if energy and self.carbon is not None else None,
            "mfu": model / used if used else self.mfu,
            "hfu": (model + again) / used if used else self.hfu,
            "gpu": device.name if device else None,
            "gpus": self.gpus,
            "precision": precision,
            "peak_flops": peak,
            "peak_source": device.source if device else None,
            "price": self.price,
            "watts": watts,
            "pue": self.pue or 1.0,
            "carbon": self.carbon,
        }
        self._needed(found, whole)
        return found

    def _agree(self, whole: bool) -> None:
        """Refuse two ways of saying how fast it runs, a utilisation of nothing, and the time of no run."""
        ways = {"--mfu": self.mfu, "--hfu": self.hfu, "--tokens-per-second": self.tokens_per_second}
        given = [name for name, value in (ways | {"--gpu-hours": self.gpu_hours}).items() if value is not None]
        if len(given) > 1:
            raise DlkitError(f"{' and '.join(given)} say the same thing twice: give one of them")
        if given and given[0] in ("--mfu", "--hfu") and self.gpu is None:
            raise DlkitError(f"{given[0]} is a share of a device's peak: name it with --gpu", f"known: {_listed()}")
        if given and given[0] != "--tokens-per-second" and not whole:
            raise DlkitError(f"{given[0]} is of a whole run: give --tokens or --samples")
        if self.precision and self.gpu is None:
            raise DlkitError("--precision chooses a device's peak: name it with --gpu", f"known: {_listed()}")

    def _needed(self, found: dict[str, Any], whole: bool) -> None:
        """Refuse what was given for a result that cannot be said."""
        told = found["gpu_hours"] is not None
        results = {
            "--tokens-per-second": (self.tokens_per_second, told or found["peak_flops"]),
            "--gpus": (self.gpus, told or self.tokens_per_second),
            "--price": (self.price, told),
            "--watts": (self.watts, told),
            "--pue": (self.pue, found["energy_kwh"]),
            "--carbon": (self.carbon, found["energy_kwh"]),
        }
        idle = [name for name, (given, result) in results.items() if given is not None and not result]
        if not idle:
            return
        if told:
            why = (
                f"no power is published for {self.gpu}: give --watts" if self.gpu else "no power is known: give --watts"
            )
        elif not whole:
            why = "the time is that of a whole run: give --tokens or --samples"
        else:
            why = "nothing says how long it takes: give --mfu with --gpu, or --gpu-hours"
        raise DlkitError(f"{' and '.join(idle)} has no effect, {why}")

    def doubts(self, found: dict[str, Any]) -> list[str]:
        """What is worth a warning: more FLOP/s than the device has."""
        above = {name.upper(): found[name] for name in ("mfu", "hfu") if (found[name] or 0) > 1 + 1e-9}
        if not above:
            return []
        what = " and ".join(f"{name} {100 * value:.4g} %" for name, value in above.items())
        return [f"{what} is above the dense {found['precision']} peak of {found['gpu']}: one of the figures is wrong"]

    def _precision(self, device: Accelerator | None) -> str | None:
        if device is None:
            return None
        return self.precision or ("bf16" if "bf16" in device.peaks else "fp16")

    def _gpu_seconds(self, model: int, again: int, tokens: int | None, peak: int | None) -> float | None:
        if self.gpu_hours is not None:
            return self.gpu_hours * 3600
        if self.tokens_per_second is not None:
            if tokens is None:
                raise DlkitError("--tokens-per-second needs a model that is trained on tokens")
            if self.gpus is None:
                raise DlkitError("--tokens-per-second is of all devices together: say how many with --gpus")
            return tokens / self.tokens_per_second * self.gpus
        if peak and self.mfu is not None:
            return model / (peak * self.mfu)
        return (model + again) / (peak * self.hfu) if peak and self.hfu is not None else None

    def budget(self, text: str) -> int:
        """FLOPs that a budget buys: 1e24 (FLOPs), 10000h (GPU-hours) or $1M (money, at --price a GPU-hour)."""
        amount = text.strip().lower().removeprefix("$")
        hourly = amount.endswith("h")
        try:
            if not (hourly or text.startswith("$")):
                return units.count(amount)
            hours = units.quantity(amount.removesuffix("h").removesuffix("gpu-"))
        except ValueError:
            raise DlkitError(
                f"--budget must be FLOPs (1e24), GPU-hours (10000h) or money ($1M), above 0. Got {text!r}"
            ) from None
        return self._bought(text, hours if hourly else None, hours)

    def _bought(self, text: str, hours: float | None, money: float) -> int:
        if hours is None:
            if not self.price:
                raise DlkitError(f"a budget of {text} buys GPU-hours at a price: give --price")
            hours = money / self.price
        if self.gpu is None or self.mfu is None:
            raise DlkitError(f"a budget of {text} buys FLOPs on a device at a utilisation: give --gpu and --mfu")
        device = accelerator(self.gpu)
        return max(1, round(hours * 3600 * device.peak(self._precision(device) or "") * self.mfu))


def _listed() -> str:
    return ", ".join(names())
