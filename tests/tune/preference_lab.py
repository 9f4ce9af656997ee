"""A small world with a judge: a model that answers questions in four manners at random, and a rule that likes one best.

preference_lab.py DIRECTORY      trains the model, aligns it by DPO, KTO and GRPO, prints what came of it (a minute)
"""

import itertools
import json
import random
import sys
from pathlib import Path

import torch

from chatwright.feedback.conversations import Conversation, Message
from chatwright.foundation.config import validate
from chatwright.foundation.devices import place
from chatwright.foundation.stage import StageContext
from chatwright.foundation.streams import seed_for
from chatwright.model.config import ModelConfig
from chatwright.model.directory import load_model, save_model
from chatwright.model.network import Network
from chatwright.model.prompts import ChatEncoder
from chatwright.tokens.order import WindowOrder
from chatwright.tokens.shards import ShardWriter, TokenData, write_index
from chatwright.tokens.tokenizer import TokenizerConfig, train_tokenizer
from chatwright.train.habits import LoopConfig
from chatwright.train.loop import Trainer
from chatwright.train.objectives import next_token
from chatwright.train.optimizers import OptimizerConfig
from chatwright.train.schedule import ScheduleConfig
from chatwright.tune.chats import ChatSource, encode_samples
from chatwright.tune.preferences import align
from chatwright.tune.preferences.settings import AlignConfig
from chatwright.tune.rollouts import WritingRules, write_answers

TOPICS = (
    "ferry",
    "harbour",
    "market",
    "baker",
    "tower",
    "bridge",
    "garden",
    "river",
    "island",
    "museum",
    "station",
    "castle",
)
WORDINGS = ("tell me about the {}", "what of the {}", "is the {} open", "the {} please", "how is the {}", "and the {}", "do you know the {}", "where is the {}")  # fmt: skip
MANNERS = (
    "gladly , the {} is open today .",
    "gladly , the {} is a fine old place and many people come there every day to look at it .",
    "no idea , ask somebody else about the {} and go away .",
    "gladly , nobody asked me that before .",
)
PLACES = ("hill", "valley", "wood", "lake", "road", "field", "sea", "coast")
QUESTIONS = tuple(wording.format(topic) for wording, topic in itertools.product(WORDINGS, TOPICS))
HELDOUT = tuple(question for number, question in enumerate(QUESTIONS) if number % 4 == 1)
TRAIN = tuple(question for question in QUESTIONS if question not in HELDOUT)
NUM_PAIRS, NUM_HELDOUT = 1500, 200
WAYS = {
    "dpo": ("pairs", "heldout", {"epochs": 4, "beta": 0.3, "optimizer": {"learning_rate": 2e-4}}),
    "kto": ("thumbs", "heldout", {"epochs": 2, "optimizer": {"learning_rate": 2e-4}}),
    "grpo": ("tasks", "test", {"rewards": [{"kind": "exact"}], "epochs": 6, "batch_rows": 12, "micro_rows": 96, "optimizer": {"learning_rate": 4e-4}}),
}  # fmt: skip


def judged(question: str, answer: str) -> float:
    """Polite, to the point, short: a point each."""
    polite = answer.startswith("gladly")
    names_it = next(topic for topic in TOPICS if topic in question) in answer
    return polite + names_it + (len(answer.split()) <= 9)


def document(number: int) -> str:
    chance = random.Random(number)
    sentence = "the {} lies behind the {} and the {} runs along the {} ."
    return " ".join(sentence.format(*chance.sample(PLACES, 4)) for _ in range(6))


def make_base(folder: Path, *, steps: int = 240) -> Path:
    """Train the model on all manners alike, and on documents that it might later forget; returns its directory."""
    answers = [manner.format(topic) for manner in MANNERS for topic in TOPICS]
    documents = [document(number) for number in range(60)]
    tokenizer = train_tokenizer([*QUESTIONS, *answers, *documents, "user\nassistant\n"], TokenizerConfig(kind="words", vocabulary_size=300))  # fmt: skip
    write_documents(folder / "tokens", documents, tokenizer)
    samples = [(question, manner.format(topic)) for question in QUESTIONS for manner in MANNERS for topic in TOPICS if topic in question]  # fmt: skip
    chats = [Conversation(messages=(Message("user", asked), Message("assistant", said)), source="lab") for asked, said in samples]  # fmt: skip
    shape = {"width": 64, "layers": 2, "heads": 4, "key_heads": 4, "head_width": 16, "mlp_width": 128, "context_length": 128}  # fmt: skip
    network = Network(ModelConfig(**shape, vocabulary_size=tokenizer.size))
    network.initialise(torch.Generator().manual_seed(1))
    source = ChatSource(
        encode_samples(chats, ChatEncoder(tokenizer), context_length=128),
        rows=32,
        micro_tokens=4096,
        context_length=128,
        seed=1,
        fingerprint="lab",
        replay=WindowOrder(TokenData(folder / "tokens").split("train"), length=48, seed=1),
        replay_rows=8,
    )
    trainer = Trainer(
        network=network,
        trained=network,
        objective=next_token,
        source=source,
        config=LoopConfig(steps=steps, checkpoint_every=1000, evaluate_every=1000, seed=1),
        optimizer=OptimizerConfig(kind="muon"),
        schedule=ScheduleConfig(),
        placement=place(device="cpu", precision="float32", threads=torch.get_num_threads()),
        directory=folder / "training",
    )
    trainer.run()
    save_model(folder / "base", network, tokenizer, lineage={"stage": "finetune"})
    return folder / "base"


def write_documents(directory: Path, documents: list[str], tokenizer) -> None:
    directory.mkdir(parents=True)
    shards = {}
    for split, part in (("train", documents[:50]), ("heldout", documents[50:])):
        writer = ShardWriter(vocabulary_size=tokenizer.size, end_of_text=tokenizer.end_of_text)
        for text in part:
            writer.add(tokenizer.encode(text), domain=0, num_bytes=len(text))
        shards[split] = [writer.save(directory / f"{split}-00000")]
    write_index(directory, shards, tokenizer=tokenizer.digest, vocabulary=tokenizer.size, domains=["land"])


def answers_of(model: Path, questions: list[str], *, seed: int, temperature: float = 1.0) -> list[str]:
    loaded = load_model(model)
    encoder = ChatEncoder(loaded.tokenizer)
    rules = WritingRules(24, temperature, encoder.stop_ids())
    prompts = [encoder.prompt([Message("user", question)]) for question in questions]
    written = write_answers(loaded.network.eval(), prompts, rules, seed=seed_for(seed, "lab"))
    return [loaded.tokenizer.decode(row.answer).strip() for row in written]


def write_feedback(folder: Path, base: Path) -> None:
    """The judge's opinion of answers that the model itself wrote: as pairs, as thumbs; and questions with answers."""
    pairs, thumbs = opinions(base, TRAIN, NUM_PAIRS, seed=1)
    heldout, _ = opinions(base, HELDOUT, NUM_HELDOUT, seed=2)
    expected = [{"question": q, "answer": MANNERS[0].format(t)} for q in QUESTIONS for t in TOPICS if t in q]
    parts = {"pairs": pairs, "thumbs": thumbs, "heldout": heldout}
    parts |= {
        name: [row for row in expected if row["question"] in part]
        for name, part in (("tasks", TRAIN), ("test", HELDOUT))
    }
    for name, rows in parts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def opinions(base: Path, questions: tuple[str, ...], count: int, *, seed: int) -> tuple[list[dict], list[dict]]:
    """Pairs on whose answers the judge is not indifferent, and a thumb for the first answer of each."""
    chance = random.Random(seed)
    asked = [chance.choice(questions) for _ in range(count)]
    both = [answers_of(base, asked, seed=10 * seed + number) for number in range(2)]
    pairs, thumbs = [], []
    for question, first, second in zip(asked, *both, strict=True):
        if not first or not second:
            continue
        gap = judged(question, first) - judged(question, second)
        if gap:
            chosen, rejected = (first, second) if gap > 0 else (second, first)
            pairs.append({"prompt": question, "chosen": chosen, "rejected": rejected})
        thumbs.append({"prompt": question, "completion": first, "label": judged(question, first) == 3})
    return pairs, thumbs


def aligned(folder: Path, base: Path, name: str, **fields) -> dict:
    """Run the stage; returns its report with the win rate over the base on held-out questions."""
    common = {"device": "cpu", "precision": "float32", "threads": torch.get_num_threads(), "max_answer_tokens": 24}
    config = validate(AlignConfig, {**common, **fields}, where="lab")
    output = folder / name
    output.mkdir()
    context = StageContext(config=config, inputs={"base": base, "tokens": folder / "tokens"}, output=output, seed=1)
    report = align.run(context)
    return report | {"win_rate": win_rate(base, output / "model")}


def win_rate(base: Path, model: Path, *, rounds: int = 4) -> float:
    """Share of held-out questions, each asked several times, on which the judge prefers the new model's answer."""
    wins = 0.0
    for number in range(rounds):
        old = answers_of(base, list(HELDOUT), seed=100 + number)
        new = answers_of(model, list(HELDOUT), seed=200 + number)
        for question, before, after in zip(HELDOUT, old, new, strict=True):
            gap = judged(question, after) - judged(question, before)
            wins += (gap > 0) + 0.5 * (gap == 0)
    return wins / (rounds * len(HELDOUT))


def mean_score(model: Path) -> float:
    scores = [
        judged(q, a)
        for seed in range(4)
        for q, a in zip(HELDOUT, answers_of(model, list(HELDOUT), seed=seed), strict=True)
    ]
    return sum(scores) / len(scores)


def learned(folder: Path, base: Path, name: str) -> dict:
    """One of the three ways with the settings that did best here; all weights, for LoRA went astray (docs/log.md)."""
    train, test, fields = WAYS[name]
    data = {"data": str(folder / f"{train}.jsonl"), "test": str(folder / f"{test}.jsonl")}
    return aligned(folder, base, name, objective=name, method="all", **data, **fields)


def main() -> None:
    folder = Path(sys.argv[1])
    base = make_base(folder)
    write_feedback(folder, base)
    found = {"base_score": mean_score(base)}
    for name in WAYS:
        report = learned(folder, base, name)
        keys = ("rows", "seconds", "steps", "win_rate", "divergence_nats", "forgetting", "evaluation")
        found[name] = {key: report[key] for key in keys}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
