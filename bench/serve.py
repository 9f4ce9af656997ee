"""Serving against llama.cpp and transformers: reading and writing speed at batch 1, 8, 32, and latency over HTTP.

Call: python bench/serve.py --llama PYTHON_WITH_LLAMA_CPP [--rounds 3] [--latency]

One model of random weights (the shape of `docs/log.md`: 12 layers, width 512, about 46M parameters) for all sides.
Each side runs in a process of its own, alone, in turn, several rounds; a cell is the median of all rounds' steps and,
in brackets, their best tenth. The peer's Python needs llama-cpp-python, gguf and safetensors. `--latency` starts our
server on a free loopback port and asks it with 1, 8 and 32 streaming clients at once.
"""

import argparse
import asyncio
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import torch

from chatwright.model.chat import ChatModel, load
from chatwright.model.config import ModelConfig
from chatwright.model.directory import save_model
from chatwright.model.engine.engine import EngineSettings
from chatwright.model.generation import GenerationRequest, Sampling
from chatwright.model.network import Network
from chatwright.tokens.tokenizer import TokenizerConfig, train_tokenizer

SHAPE: dict[str, Any] = {
    "width": 512, "layers": 12, "heads": 8, "key_heads": 4, "head_width": 64, "mlp_width": 1536,
    "context_length": 1024, "vocabulary_size": 16_384,
}  # fmt: skip
BATCHES = (1, 8, 32)
SIDES = ("ours float32", "llama.cpp f32", "transformers float32", "ours int8", "llama.cpp q8_0")
PROMPT, NEW, REPEATS = 128, 48, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", type=Path, help="a Python that has llama-cpp-python, gguf and safetensors")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--latency", action="store_true", help="only the latency of streaming clients")
    parser.add_argument("--weights", default="float32", help="of our side, for --latency")
    parser.add_argument("--side", help="internal: measure one side in this process")
    parser.add_argument("--model", type=Path, help="internal")
    parser.add_argument("--task", type=Path, help="internal")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.side:
        measure_side(options)
        return
    if not options.latency and options.llama is None:
        parser.error("no peer: give --llama, or ask for --latency")
    with tempfile.TemporaryDirectory() as scratch:
        model = make_model(Path(scratch) / "model")
        print(f"{platform.processor() or platform.machine()}, {options.threads} threads, torch {torch.__version__}")
        if options.latency:
            measure_latency(model, options)
        else:
            compare(model, options)


def make_model(directory: Path) -> Path:
    """Random weights, large enough that scores differ clearly."""
    network = Network(ModelConfig(**SHAPE))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        is_norm = parameter.ndim == 1
        torch.nn.init.normal_(parameter, mean=float(is_norm), std=0.05, generator=generator)
    tokenizer = train_tokenizer(Path(__file__).read_text().splitlines(), TokenizerConfig(vocabulary_size=2048))
    save_model(directory, network, tokenizer, lineage={})
    return directory


def compare(model: Path, options: argparse.Namespace) -> None:
    generator = random.Random(1)  # noqa: S311 - prompts, not secrets
    prompts = [[generator.randrange(3, SHAPE["vocabulary_size"]) for _ in range(PROMPT)] for _ in range(max(BATCHES))]
    found: dict[tuple[str, int], dict[str, list[Any]]] = {}
    for _ in range(options.rounds):
        for rows in BATCHES:
            task = {"prompts": prompts, "rows": rows, "new": NEW, "repeats": REPEATS, "threads": options.threads}
            path = model.with_name("task.json")
            path.write_text(json.dumps(task))
            for side in SIDES:
                measured = run_side(side, model, path, options)
                cell = found.setdefault((side, rows), {"prefill": [], "steps": [], "ids": []})
                for name, values in cell.items():
                    values.extend(measured[name])
                print(f"  {side}, batch {rows}: done", file=sys.stderr)
    report(found)


def run_side(side: str, model: Path, task: Path, options: argparse.Namespace) -> Any:
    common = ["--model", model, "--task", task]
    if side.startswith("llama.cpp"):
        command = [options.llama, Path(__file__).with_name("_serve_llama.py"), *common, "--kind", side.split()[1]]
    else:
        command = [sys.executable, __file__, *common, "--side", side, "--threads", options.threads]
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_side(options: argparse.Namespace) -> None:
    task = argparse.Namespace(**json.loads(options.task.read_text()))
    kind = options.side.split()[1]
    if options.side.startswith("ours"):
        settings = EngineSettings(weights=kind, shared_blocks=0)
        print(json.dumps(measure_ours(load(options.model, settings=settings), task)))
    else:
        print(json.dumps(measure_transformers(options.model, task)))


def measure_ours(model: ChatModel, task: argparse.Namespace) -> dict[str, Any]:
    """Whole steps of the engine: choosing, text and all."""
    engine = model.engine
    prompts = [tuple(prompt) for prompt in task.prompts[: task.rows]]
    prefill = []
    for _ in range(task.repeats):
        request = GenerationRequest(prompt=prompts[0], sampling=Sampling(max_tokens=1, temperature=0))
        began = time.perf_counter()
        engine.run([request])
        prefill.append(len(prompts[0]) / (time.perf_counter() - began))
    sampling = Sampling(max_tokens=task.new + 64, temperature=0)
    for prompt in prompts:
        engine.submit(GenerationRequest(prompt=prompt, sampling=sampling))
    while any(answer.is_reading for answer in engine._active) or engine.load().waiting:
        engine.step()
    answers = sorted(engine._active, key=lambda answer: answer.number)
    steps = []
    for _ in range(task.new):
        began = time.perf_counter()
        engine.step()
        steps.append(time.perf_counter() - began)
    return {"prefill": prefill, "steps": steps, "ids": [answer.written[: task.new + 1] for answer in answers]}


def measure_transformers(directory: Path, task: argparse.Namespace) -> dict[str, Any]:
    """`generate`: one token and many, the difference is writing."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ids = torch.tensor(task.prompts[: task.rows])

    def seconds(rows: torch.Tensor, count: int) -> tuple[float, torch.Tensor]:
        began = time.perf_counter()
        made = model.generate(
            rows, attention_mask=torch.ones_like(rows), max_new_tokens=count, min_new_tokens=count, do_sample=False
        )
        return time.perf_counter() - began, made

    prefill = [ids.shape[1] / seconds(ids[:1], 1)[0] for _ in range(task.repeats)]
    first = min(seconds(ids, 1)[0] for _ in range(2))
    whole, made = seconds(ids, task.new + 1)
    step = (whole - first) / task.new
    return {"prefill": prefill, "steps": [step], "ids": made[:, ids.shape[1] :].tolist()}


def report(found: dict[tuple[str, int], dict[str, list[Any]]]) -> None:
    def rates(side: str, rows: int) -> tuple[float, float]:
        steps = sorted(found[side, rows]["steps"])
        return rows / statistics.median(steps), rows / steps[len(steps) // 10]

    print(f"\nprompts of {PROMPT} tokens, {NEW} steps; tokens/s: median (best tenth)")
    print(f"{'':24}{'prefill':>16}" + "".join(f"{f'batch {rows}':>20}" for rows in BATCHES))
    prefill = {side: statistics.median(found[side, 1]["prefill"]) for side in SIDES}
    for side in SIDES:
        cells = "".join(f"{'{:.0f} ({:.0f})'.format(*rates(side, rows)):>20}" for rows in BATCHES)
        print(f"{side:24}{prefill[side]:16.0f}{cells}")
    pairs = [("ours float32", "llama.cpp f32"), ("ours int8", "llama.cpp q8_0"), ("ours float32", SIDES[2])]
    for ours, theirs in pairs:
        cells = "".join(f"{rates(ours, rows)[0] / rates(theirs, rows)[0]:>20.2f}" for rows in BATCHES)
        print(f"{ours} / {theirs}".ljust(44)[:44] + f"{prefill[ours] / prefill[theirs]:6.2f}{cells}")
    same = {side: found[side, 8]["ids"][:8] == found["ours float32", 8]["ids"][:8] for side in SIDES[1:]}
    print(f"greedy ids of 8 prompts equal to ours in float32: {same}")


def measure_latency(model: Path, options: argparse.Namespace) -> None:
    """Streaming clients over HTTP: until the first token, and between tokens."""
    command = [
        sys.executable,
        "-m",
        "chatwright",
        "serve",
        str(model),
        "--port",
        "0",
        "--store",
        f"sqlite:///{model.parent}/kept.sqlite",
    ]
    if options.weights != "float32":
        command += ["--quantize", options.weights]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        address = next(word for line in server.stderr for word in line.split() if word.startswith("http://"))
        name = httpx.get(f"{address}v1/models", trust_env=False).json()["data"][0]["id"]
        print(f"\n{options.weights}, {NEW} tokens an answer; milliseconds p50 / p99")
        for clients in BATCHES:
            asyncio.run(ask_all(address, name, clients, rounds=1))  # warm
            first, between, wall = asyncio.run(ask_all(address, name, clients, rounds=3))
            print(
                f"{clients:3} clients: first token {at(first, 50):.0f} / {at(first, 99):.0f}, between tokens "
                f"{at(between, 50):.1f} / {at(between, 99):.1f}, {(len(first) + len(between)) / wall:.0f} tokens/s"
            )
    finally:
        server.terminate()
        server.wait(20)


def at(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return 1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


class Heard(NamedTuple):
    """Seconds that clients waited."""

    first: list[float]  # until the first token
    between: list[float]
    wall: float


async def ask_all(address: str, model: str, clients: int, *, rounds: int) -> Heard:
    first: list[float] = []
    between: list[float] = []

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        for turn in range(rounds):
            text = f"Question {number} of turn {turn}: when does the ferry leave, and how many may go? " * 3
            body = {
                "model": model, "messages": [{"role": "user", "content": text}], "stream": True,
                "max_tokens": NEW, "temperature": 0.8, "seed": number, "logprobs": True,
            }  # fmt: skip
            last = time.perf_counter()
            is_first = True
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                response.raise_for_status()
                async for line in response.aiter_lines():
                    if '"logprobs":{' in line:  # of a random model, few tokens are text, but each has its probability
                        now = time.perf_counter()
                        (first if is_first else between).append(now - last)
                        last, is_first = now, False

    began = time.perf_counter()
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=120, trust_env=False, limits=limits) as client:
        await asyncio.gather(*(ask(client, number) for number in range(clients)))
    return Heard(first, between, time.perf_counter() - began)


if __name__ == "__main__":
    main()
