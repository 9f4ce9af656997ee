"""Machines one does not have: what their makers print of them, and what a training may expect of that.

Peaks are dense bfloat16 (float16 where there is none) of one device, from the makers' data sheets as of November 2026.
Nothing here is measured; a plan made of it says so. Prices change too fast for a table: the person gives one.
"""

import re
from typing import Literal, NamedTuple

from chatwright.foundation.devices import PrecisionName
from chatwright.foundation.errors import UsageError
from chatwright.recipe.plan.cost import step_flops
from chatwright.recipe.plan.machine import Machine, StepRate
from chatwright.recipe.plan.shapes import shape_of

_PER_NODE = 8
_MOST_DEVICES = 4096
FREE_SHARE = 0.94  # of the memory, after the driver's context and libraries
_PROBE_TOKENS = 65_536
_RESTARTS = 3  # of all ranks from the newest checkpoint when one dies, before a person has to look
_SIGNAL_S = 120  # before a Slurm job's end it is told to stop
_CORES_PER_DEVICE = 8  # asked of Slurm for a part of a machine: they feed the device, and prepare the data
# Share of the peak that a training reaches, by width: our assumption, low for small matrices. Large models reach
# 0.38 to 0.46 of it (Chowdhery et al. 2022, PaLM, table 3: 0.462; Dubey et al. 2024, Llama 3, table 4: 0.38 to 0.43).
_UTILISATION = ((256, 2, 0.08), (768, 12, 0.25), (2048, 20, 0.38))


class Accelerator(NamedTuple):
    """One device, as its maker describes it."""

    title: str
    memory_bytes: float
    peak_flops: float  # dense, per second
    bytes_per_second: float
    watts: int  # at most
    precision: PrecisionName
    source: str


# Checked on 2026-11-23 against the data sheets' figures as public pages repeat them; where a sheet prints the rate with
# sparsity, half of it stands here.
_SHEET = "data sheet of the {}, dense"
ACCELERATORS = {
    "t4": Accelerator("NVIDIA T4", 16e9, 65e12, 0.32e12, 70, "float16", _SHEET.format("T4")),
    "l4": Accelerator("NVIDIA L4", 24e9, 121e12, 0.3e12, 72, "bfloat16", _SHEET.format("L4")),
    "l40s": Accelerator("NVIDIA L40S", 48e9, 362e12, 0.864e12, 350, "bfloat16", _SHEET.format("L40S")),
    "rtx4090": Accelerator(
        "NVIDIA RTX 4090", 24e9, 165e12, 1.008e12, 450, "bfloat16", "NVIDIA Ada architecture paper, appendix A, dense"
    ),
    "a100-40": Accelerator("NVIDIA A100 40 GB SXM", 40e9, 312e12, 1.555e12, 400, "bfloat16", _SHEET.format("A100")),
    "a100": Accelerator("NVIDIA A100 80 GB SXM", 80e9, 312e12, 2.039e12, 400, "bfloat16", _SHEET.format("A100")),
    "h100": Accelerator("NVIDIA H100 SXM", 80e9, 989e12, 3.35e12, 700, "bfloat16", _SHEET.format("H100")),
    "h200": Accelerator("NVIDIA H200 SXM", 141e9, 989e12, 4.8e12, 700, "bfloat16", _SHEET.format("H200")),
    "b200": Accelerator("NVIDIA B200", 180e9, 2250e12, 8e12, 1000, "bfloat16", "data sheet of the DGX B200, an eighth"),
    "mi300x": Accelerator("AMD Instinct MI300X", 192e9, 1307e12, 5.3e12, 750, "bfloat16", _SHEET.format("MI300X")),
}
_SKY_NAMES = {"a100": "A100-80GB", "a100-40": "A100", "rtx4090": "RTX4090", "mi300x": "MI300X"}  # else in capitals


class Fleet(NamedTuple):
    """Several of one device."""

    name: str
    num_devices: int

    @property
    def nodes(self) -> int:
        """Machines of eight devices at most."""
        return -(-self.num_devices // _PER_NODE)

    @property
    def per_node(self) -> int:
        """Devices a machine."""
        return self.num_devices // self.nodes


def fleet_of(text: str) -> Fleet:
    """`h100x8`, `a100`, `l4x2`.

    Raises:
        UsageError: an unknown device, or a number that no whole machines give.
    """
    found = re.fullmatch(rf"({'|'.join(ACCELERATORS)})(?:x([1-9]\d{{0,3}}))?", text.strip().lower())
    known = ", ".join(ACCELERATORS)
    if found is None:
        raise UsageError(f"no such accelerator in the table: `{text}`", hint=f"known, each with xN behind it: {known}")
    count = int(found[2] or 1)
    if count > _MOST_DEVICES or (count > _PER_NODE and count % _PER_NODE):
        raise UsageError(
            f"{count} devices are no whole machines", hint=f"up to {_PER_NODE}, or a multiple up to {_MOST_DEVICES}"
        )
    return Fleet(found[1], count)


def machine_of(fleet: Fleet) -> Machine:
    """The fleet as a machine to plan for: peaks times the assumed utilisation, one device's memory."""
    device = ACCELERATORS[fleet.name]
    peak = device.peak_flops * fleet.num_devices
    kind: Literal["cuda"] = "cuda"
    rates = tuple(_rate(width, layers, peak * share) for width, layers, share in _UTILISATION)
    return Machine(
        device=f"{device.title} x {fleet.num_devices}",
        kind=kind,
        precision=device.precision,
        precision_reason=f"not measured: {device.source}, {_UTILISATION[0][2]} to {_UTILISATION[-1][2]} of the peak",
        threads=0,
        matmul={},
        bytes_per_second=device.bytes_per_second,
        memory_bytes=int(device.memory_bytes * FREE_SHARE),
        process_bytes=0,
        rates=rates,
        seconds=0.0,
        watts=float(device.watts * fleet.num_devices),
        num_devices=fleet.num_devices,
    )


def _rate(width: int, layers: int, flops_per_second: float) -> StepRate:
    shape = shape_of(width, layers, vocabulary_size=32_768, context_length=1024)
    return StepRate(width, layers, step_flops(shape, _PROBE_TOKENS) / flops_per_second, flops_per_second)


def torchrun_script(fleet: Fleet, recipe: str) -> str:
    """A shell script for one machine, or for each of several by hand."""
    if fleet.nodes == 1:
        places = f"--standalone --nproc-per-node {fleet.per_node}"
        command = f"torchrun {places} --max-restarts {_RESTARTS} -m chatwright run {recipe}"
        return f"#!/bin/sh\n# Run it again to go on after a stop.\nset -eu\n{command}\n"
    return (
        "#!/bin/sh\n"
        f"# On each of the {fleet.nodes} machines; HEAD is the first one's address; they share the folder `runs`.\n"
        "set -eu\n"
        f"torchrun --nnodes {fleet.nodes} --nproc-per-node {fleet.per_node} --rdzv-backend c10d \\\n"
        f'    --rdzv-id chatwright --rdzv-endpoint "${{HEAD:?}}:29500" --max-restarts {_RESTARTS} \\\n'
        f"    -m chatwright run {recipe}\n"
    )


def slurm_script(fleet: Fleet, recipe: str, *, hours: int) -> str:
    """A Slurm batch script, whose signal before the end lets the run save; who queues the next job goes on from there.

    `--requeue` queues a job again whose machine failed, or that was pushed aside, not one whose time was up.

    Slurm gives a task one processor unless asked for more. Whole machines are taken with all that they have; of a part
    of one a share is asked for, of both commands: since Slurm 22.05 srun no longer takes it from sbatch.
    """
    whole = fleet.per_node == _PER_NODE
    cores = fleet.per_node * _CORES_PER_DEVICE
    share = "#SBATCH --exclusive\n#SBATCH --mem=0\n" if whole else f"#SBATCH --cpus-per-task={cores}\n"
    task = "--cpu-bind=none" if whole else f"--cpus-per-task={cores} --cpu-bind=none"
    return (
        "#!/bin/bash\n"
        f"#SBATCH --job-name=chatwright\n#SBATCH --nodes={fleet.nodes}\n#SBATCH --ntasks-per-node=1\n"
        f"#SBATCH --gpus-per-node={fleet.per_node}\n{share}#SBATCH --time={hours}:00:00\n"
        f"#SBATCH --signal=TERM@{_SIGNAL_S}\n#SBATCH --requeue\n"
        "# Slurm queues it again after a failed machine, not when its time is up: it has saved then, and the next one\n"
        "# goes on. To queue one more, which begins when this one has ended: sbatch --dependency=singleton THIS_FILE\n"
        "set -euo pipefail\n"
        "# torchrun kills its workers so many seconds after the signal, 30 unless told otherwise: time to save.\n"
        f"export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={_SIGNAL_S - 10}\n"
        'HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)\n'
        f"srun {task} \\\n"
        f"    torchrun --nnodes {fleet.nodes} --nproc-per-node {fleet.per_node} --rdzv-backend c10d \\\n"
        f'    --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$HEAD:29500" --max-restarts {_RESTARTS} \\\n'
        f"    -m chatwright run {recipe}\n"
    )


def sky_task(fleet: Fleet, recipe: str) -> str:
    """A task for SkyPilot (`sky launch`), which finds and starts the machine; the folder of the call is sent to it.

    Of one machine only: several would need one folder `runs` that they all see, and a bucket that is mounted as one
    cannot rename a directory at once, which is how results are published. The variable's name is from its guide
    "Distributed Multi-Node Jobs".

    Raises:
        UsageError: a fleet of several machines.
    """
    if fleet.nodes > 1:
        raise UsageError(f"a task for SkyPilot is of one machine, these are {fleet.nodes}: they share no folder `runs`")
    device = _SKY_NAMES.get(fleet.name, fleet.name.upper())
    return (
        "# sky launch -c chatwright this.yaml, from the folder that holds the recipe and the documents: it is sent,\n"
        "# less what `.skyignore` names, or `.gitignore` where there is none. The same call goes on after a stop.\n"
        f"name: chatwright\nresources:\n  accelerators: {device}:{fleet.per_node}\nnum_nodes: 1\n"
        "workdir: .\nsetup: |\n  python3 -m pip install .\nrun: |\n"
        f"  torchrun --standalone --nproc-per-node $SKYPILOT_NUM_GPUS_PER_NODE --max-restarts {_RESTARTS} \\\n"
        f"    -m chatwright run {recipe}\n"
    )
