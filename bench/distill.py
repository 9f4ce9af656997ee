"""A student against its twin without a teacher: equal tokens, and equal cost with the teacher counted and not counted.

Call: python bench/distill.py --books FOLDER --work FOLDER

FOLDER holds EPUB files, which the normal stages prepare. A teacher is pretrained on all of their text. Students of the
same beginning learn in the same order, from the teacher or by the plain loss (the twin), in two settings: `plenty`,
where no text is seen twice, and `little`, where a small part of it is seen many times. Three seeds. Cost is CPU time of
one thread; a twin of equal cost takes so many more steps, with a schedule of that length. Held-out bits per byte.

Results are appended to WORK/distill.jsonl; called again, only what is missing is run. The table comes from the file.
"""

import argparse
import math
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from _books import prepare, study_tokens
from _study import Results, spread, table
from chatwright.foundation.config import validate
from chatwright.foundation.devices import place
from chatwright.foundation.stage import StageContext
from chatwright.foundation.stopping import StopFlag
from chatwright.foundation.streams import seed_for
from chatwright.model.config import ModelConfig
from chatwright.model.directory import load_model
from chatwright.model.network import Network
from chatwright.tokens.shards import TokenData
from chatwright.tokens.tokenizer import load_tokenizer
from chatwright.train import pretrain
from chatwright.train.habits import LoopConfig
from chatwright.train.heldout import HeldoutCheck, sample_documents
from chatwright.train.loop import Trainer
from chatwright.train.objectives import Objective, next_token
from chatwright.train.optimizers import OptimizerConfig
from chatwright.train.pretrain import PretrainInputs
from chatwright.train.schedule import ScheduleConfig
from chatwright.tune.distill.losses import DistilSettings
from chatwright.tune.distill.objective import KeptTeacher, OnlineTeacher
from chatwright.tune.distill.source import LessonSource, Plan, Windows
from chatwright.tune.distill.teacher import keep_shares

CONTEXT, ROWS, HELDOUT = 128, 16, 1 << 20
TEACHER = {"width": 128, "layers": 3, "heads": 4, "key_heads": 4, "head_width": 32, "mlp_width": 352}
STUDENT = {"width": 64, "layers": 2, "heads": 2, "key_heads": 2, "head_width": 32, "mlp_width": 160}
TEACHER_STEPS = 250
SEEDS = (1, 2, 3)


class Setting(NamedTuple):
    """How much text there is, and for how long it is learned."""

    name: str
    stored: int | None  # training tokens; None: all
    steps: int
    ways: tuple[str, ...]  # the first is the one whose cost a twin is given


SETTINGS = (
    Setting("plenty", None, 150, ("scores", "scores, soft only")),
    Setting("little", 50_000, 150, ("kept", "kept, soft only")),
)


class Way(NamedTuple):
    """How the teacher is heard."""

    by: str
    loss: dict[str, float]


WAYS = {
    "scores": Way("scores", {"soft_share": 0.5}),
    "scores, soft only": Way("scores", {"soft_share": 1.0}),
    "kept": Way("kept", {"soft_share": 0.5}),
    "kept, soft only": Way("kept", {"soft_share": 1.0}),
}
_COMMON = {"device": "cpu", "precision": "float32", "threads": 1, "checkpoint_every": 100_000, "log_every": 50}


class Bench(NamedTuple):
    """Where everything is."""

    run: Path
    work: Path
    results: Results

    def tokens(self, setting: Setting) -> Path:
        """The token shards of a setting."""
        return study_tokens(self.run, self.work / f"tokens-{setting.name}", stored=setting.stored)

    def fresh(self, name: str) -> Path:
        """An empty directory for a run."""
        folder = self.work / "distill" / name.replace(" ", "_").replace(",", "")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="only print what was found")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.work / "distill.jsonl")
    if not options.table:
        study(Bench(prepare(options.books, options.work), options.work, results))
    print(report(results))


def study(bench: Bench) -> None:
    """Every run, those first that the others' length depends on."""
    teacher = bench.results.once("teacher", lambda: train_teacher(bench))
    for seed in SEEDS:
        for setting in SETTINGS:
            runs = Runs(bench, setting, seed)
            runs.learn("twin")
            runs.learn(setting.ways[0])
            runs.learn("twin, equal cost", runs.steps_for(0.0))
    for seed in SEEDS:
        for setting in SETTINGS:
            runs = Runs(bench, setting, seed)
            runs.learn("twin, teacher's training counted", runs.steps_for(teacher["seconds"]))
    for seed in SEEDS:
        for setting in SETTINGS:
            for way in setting.ways[1:]:
                Runs(bench, setting, seed).learn(way)


class Runs:
    """Runs of one setting and seed."""

    def __init__(self, bench: Bench, setting: Setting, seed: int):
        self._bench, self._setting, self._seed = bench, setting, seed

    def steps_for(self, seconds: float) -> int:
        """Steps of a twin that costs what the setting's first way cost, its teacher's work and `seconds` included."""
        twin, taught = self.learn("twin"), self.learn(self._setting.ways[0])
        spent = taught["seconds"] + taught["teacher_seconds"] + seconds
        return math.ceil(spent / (twin["seconds"] / twin["steps"]))

    def learn(self, way: str, steps: int | None = None) -> dict[str, Any]:
        """One run; a way that is not in the table is a twin without a teacher."""
        full = f"{self._setting.name}/{way}/{self._seed}"
        key = {"setting": self._setting.name, "way": way, "seed": self._seed}

        def run() -> dict[str, Any]:
            output = self._bench.fresh(full.replace("/", "-"))
            length = steps or self._setting.steps
            return {
                **key,
                **train_student(self._bench, self._setting, seed=self._seed, way=way, steps=length, output=output),
            }

        return self._bench.results.once(full, run)


def train_teacher(bench: Bench) -> dict[str, Any]:
    """The stage `pretrain` on all text."""
    output = bench.fresh("teacher")
    shape = {**TEACHER, "context_length": CONTEXT}
    section = {
        **_COMMON,
        "steps": TEACHER_STEPS,
        "batch_rows": ROWS,
        "evaluate_every": 10_000,
        "heldout_tokens": HELDOUT,
    }
    inputs = {"model": shape, "pretrain": section}
    began = time.process_time()
    context = StageContext(
        config=validate(PretrainInputs, inputs, where="teacher"),
        inputs={"tokens": bench.tokens(SETTINGS[0]), "tokenizer": bench.run / "tokenizer"},
        output=output,
        seed=99,
    )
    summary = pretrain.run(context)
    seconds = time.process_time() - began
    bits = summary["evaluation"]["bits_per_byte"]["all"]
    return {"seconds": seconds, "bits": bits, "parameters": summary["parameters"], "tokens": summary["target_tokens"]}


def train_student(bench: Bench, setting: Setting, *, seed: int, way: str, steps: int, output: Path) -> dict[str, Any]:
    """A student from the beginning that all of its seed share, in the order that all share."""
    tokenizer, data = load_tokenizer(bench.run / "tokenizer"), TokenData(bench.tokens(setting))
    shape = {**STUDENT, "context_length": CONTEXT, "vocabulary_size": tokenizer.size}
    network = Network(validate(ModelConfig, shape, where="student"))
    network.initialise(torch.Generator().manual_seed(seed_for(seed, "student")))
    samples = Windows(data.split("train"), length=CONTEXT)
    began = time.process_time()
    lesson = lesson_of(bench, way, samples, seed=seed, output=output)
    prepared = time.process_time() - began
    heldout = sample_documents(data.split("heldout"), tokens_per_domain=HELDOUT)
    check = TimedCheck(HeldoutCheck(network, heldout, begin=tokenizer.begin_of_text))
    trainer = Trainer(
        network=network,
        trained=network,
        objective=lesson.objective,
        source=lesson.source,
        config=LoopConfig(steps=steps, checkpoint_every=100_000, evaluate_every=50, seed=seed),
        optimizer=OptimizerConfig(),
        schedule=ScheduleConfig(),
        placement=place(device="cpu", precision="float32", threads=1),
        directory=output,
        evaluate=check,
    )
    began = time.process_time()
    summary = trainer.run()
    seconds = time.process_time() - began - check.seconds
    shutil.rmtree(output)
    return {
        "steps": steps,
        "passes": round(steps * ROWS / len(samples), 2),
        "seconds": round(seconds, 2),
        "teacher_seconds": round(prepared, 2),
        "bits": summary["evaluation"]["bits_per_byte"]["all"],
        "best_bits": min(check.bits),
    }


class Lesson(NamedTuple):
    """What a run learns from, and by which loss."""

    source: LessonSource
    objective: Objective


def lesson_of(bench: Bench, way: str, samples: Windows, *, seed: int, output: Path) -> Lesson:
    """The plain loss, the teacher beside the student, or its likeliest tokens kept on disk."""
    plan = Plan(ROWS, ROWS, seed, way)
    if way not in WAYS:
        return Lesson(LessonSource(samples, plan), next_token)
    teacher = load_model(bench.work / "distill" / "teacher" / "model").network
    settings = DistilSettings(**WAYS[way].loss)
    if WAYS[way].by == "scores":
        return Lesson(LessonSource(samples, plan), OnlineTeacher(teacher, settings))
    shares = keep_shares(
        output / "teacher",
        teacher.requires_grad_(False).eval(),
        samples,
        kept=32,
        temperature=settings.temperature,
        facts={"way": way},
        rows=ROWS,
        stop=StopFlag(),
    )
    return Lesson(LessonSource(samples, plan, shares=shares), KeptTeacher(settings))


class TimedCheck:
    """The held-out measurement, its time and all that it found."""

    def __init__(self, check: HeldoutCheck):
        self._check = check
        self.seconds = 0.0
        self.bits: list[float] = []

    def __call__(self) -> dict[str, Any]:
        """Measure."""
        began = time.process_time()
        values = self._check()
        self.seconds += time.process_time() - began
        self.bits.append(values["bits_per_byte"]["all"])
        return values


def report(results: Results) -> str:
    """A table of each setting."""
    parts = []
    head = ["way", "steps", "CPU seconds", "bits per byte", "best on the way"]
    for setting in SETTINGS:
        lines = [line for line in results.lines.values() if line.get("setting") == setting.name]
        ways = list(dict.fromkeys(line["way"] for line in lines))
        rows = []
        for way in ways:
            mine = [line for line in lines if line["way"] == way]
            rows.append(
                [
                    way,
                    spread([line["steps"] for line in mine], digits=0),
                    spread([line["seconds"] + line["teacher_seconds"] for line in mine], digits=1),
                    spread([line["bits"] for line in mine]),
                    spread([line["best_bits"] for line in mine]),
                ]
            )
        parts.append(f"{setting.name}\n\n" + table(head, rows))
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
