"""Evidence in the small: what a judge likes is learned from its pairs, its thumbs and its rule, and little is lost for it.

The floors are those of the project's goals; the figures that were seen are in docs/log.md.
"""

import preference_lab as lab
import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("lab")
    base = lab.make_base(folder)
    lab.write_feedback(folder, base)
    return folder, base


@pytest.mark.parametrize(("name", "win_rate", "accuracy"), [("dpo", 0.75, 0.9), ("kto", 0.65, 0.6)])
def test_what_the_judge_prefers_is_learned_from_its_pairs_and_from_its_thumbs(world, name, win_rate, accuracy):
    report = lab.learned(*world, name)
    assert report["win_rate"] >= win_rate
    assert report["evaluation"]["accuracy"] > accuracy  # thumbs say nothing of two answers that are both not the best
    assert report["divergence_nats"] < 12
    assert report["forgetting"]["all"] < 0.05


def test_half_of_what_is_left_of_a_checkable_reward_is_gained(world):
    folder, base = world
    report = lab.learned(folder, base, "grpo")
    questions = list(lab.HELDOUT) * 4
    rewards = []
    for model in (base, folder / "grpo" / "model"):
        answers = lab.answers_of(model, questions, seed=77)
        wanted = [
            next(lab.MANNERS[0].format(topic) for topic in lab.TOPICS if topic in question) for question in questions
        ]
        rewards.append(
            sum(one.rstrip(" .") == other.rstrip(" .") for one, other in zip(answers, wanted, strict=True))
            / len(wanted)
        )
    assert rewards[1] >= rewards[0] + 0.5 * (1 - rewards[0])
    assert report["forgetting"]["all"] < 0.05


def test_a_model_against_itself_wins_half(world):
    _, base = world
    assert lab.win_rate(base, base) == pytest.approx(0.5, abs=0.08)
