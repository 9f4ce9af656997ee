"""Weak areas: what is known of a topic comes together, and a proposal becomes a recipe only when it is accepted."""

import pytest
from tiny_recipe import write_recipe

from chatwright.foundation import storage
from chatwright.foundation.errors import UsageError
from chatwright.recipe.recipe import load_recipe, to_toml
from chatwright.recipe.report.facts import RunFacts, StageFacts
from chatwright.recipe.weak import accept, proposals, topic_table, topics_of


@pytest.fixture
def run(tmp_path):
    recipe = load_recipe(write_recipe(tmp_path / "made", documents=1))
    folder = tmp_path / "run"
    (folder / "evaluate").mkdir(parents=True)
    (folder / "recipe.toml").write_text(to_toml(recipe))

    def given(topic, said):
        return {
            "messages": [{"role": "user", "content": f"about {topic}?"}],
            "answer": "a",
            "reference": "a",
            "expected": topic,
            "said": said,
        }

    answers = [given("returns", "returns")] * 4 + [given("shipping", "returns")] * 3 + [given("shipping", "shipping")]
    storage.write_json(folder / "evaluate" / "samples.json", {"finetune": {"answers": answers}})
    stages = {
        "evaluate": StageFacts(name="evaluate", directory=folder / "evaluate", content="", facts={}),
        "finetune": StageFacts(
            name="finetune", directory=folder, content="", facts={"summary": {"forgetting": {"all": 0.4}}}
        ),
    }
    return RunFacts(directory=folder, stages=stages)


def test_answers_ratings_and_thumbs_of_a_topic_come_together_weakest_first(run):
    rating = {"item_kind": "scale", "is_check": False, "occasion": 0, "asked": "about shipping?", "topic": ""}
    ratings = [{**rating, "scores": {"fluency": 5, "coherence": 2, "relevance": 2}}, {**rating, "is_check": True}]
    thumbs = [{"messages": [{"role": "user", "content": "about returns?"}], "ratings": [{"thumb": 1}]}]
    table = topic_table(run, ratings=ratings, feedback=thumbs)
    assert [topic.name for topic in table] == ["shipping", "returns"]
    shipping, returns = table
    assert (shipping.questions, shipping.right, shipping.rated, shipping.ratings) == (4, 0.25, 3.0, 1)
    assert (returns.right, returns.thumbs_up, returns.thumbs_down) == (1.0, 1, 0)


def test_an_accepted_proposal_is_a_sound_new_recipe_and_the_run_stays_as_it_was(run, tmp_path):
    before = (run.directory / "recipe.toml").read_bytes()
    found = proposals(run, topic_table(run))
    assert [proposal.key for proposal in found] == ["finetune.epochs", "finetune.replay_share"]
    path = accept(run, found[:1], tmp_path / "new.toml")
    old, new = load_recipe(run.directory / "recipe.toml"), load_recipe(path)
    assert new.finetune.epochs == pytest.approx(1.5 * old.finetune.epochs)
    assert new.model_copy(update={"finetune": old.finetune}) == old
    assert (run.directory / "recipe.toml").read_bytes() == before
    with pytest.raises(UsageError, match="there already"):
        accept(run, found, path)
    with pytest.raises(UsageError, match="no change"):
        accept(run, [], tmp_path / "other.toml")


def test_questions_of_like_words_fall_into_one_topic():
    ships = ["when does the parcel arrive", "parcel did not arrive yet", "will my parcel arrive today"]
    teas = ["green tea temperature please", "temperature for green tea", "which temperature suits green tea"]
    found = topics_of([*ships, *teas], number=2, seed=3)
    assert len(set(found[:3])) == len(set(found[3:])) == 1
    assert found[0] != found[3]


def test_nothing_to_look_at_is_told(run):
    storage.write_json(run.directory / "evaluate" / "samples.json", {})
    with pytest.raises(UsageError, match="no answers, ratings or thumbs"):
        topic_table(run)
