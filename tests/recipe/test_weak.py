"""Weak areas: what is known of a topic comes together, and a proposal becomes a recipe only when it is accepted."""

import pytest
from tiny_recipe import write_recipe

from chatwright.evaluate.records import keep, new_record
from chatwright.foundation import storage
from chatwright.foundation.errors import UsageError
from chatwright.recipe.recipe import load_recipe, to_toml
from chatwright.recipe.report.facts import RunFacts, StageFacts
from chatwright.recipe.report.weakness import weak_page
from chatwright.recipe.weak import Topic, accept, as_text, domains_of, proposals, topic_table, topics_of


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
    storage.write_json(folder / "evaluate" / "scores.json", {"models": {"finetune": {"answers": {"right": 0.625}}}})
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


def test_labels_that_nothing_could_be_judged_by_are_topics_alone(run):
    storage.write_json(
        run.directory / "evaluate" / "scores.json", {"models": {"finetune": {"answers": {"exact": 1.0}}}}
    )
    assert {topic.name: topic.right for topic in topic_table(run)} == {"returns": 1.0, "shipping": 1.0}


def record_of_tasks(figures, digest="d"):
    model = {"name": "tiny-finetune", "digest": digest}
    return new_record("tasks", model=model, data={}, settings={}, result={"tasks": figures})


def test_scores_of_own_tasks_stand_beside_answers_of_the_same_topic_and_the_newest_counts(run):
    old = {"quiz": {"items": 4, "value": 0.0, "topics": {}}}
    new = {"quiz": {"items": 4, "value": 0.5, "topics": {"shipping": {"items": 4, "value": 0.5}}}}
    for created, figures in enumerate((old, new, {"grammar": {"items": 2, "value": 1.0, "topics": {}}})):
        keep(record_of_tasks(figures) | {"created": float(created)}, run.directory / "evaluations")
    topics = {topic.name: topic for topic in topic_table(run)}
    assert (topics["shipping"].right, topics["shipping"].tasks, topics["shipping"].task_items) == (0.25, 0.5, 4)
    assert (topics["grammar"].questions, topics["grammar"].tasks) == (0, 1.0)
    assert topics["returns"].tasks is None


def test_scores_of_another_model_and_of_public_tasks_are_not_those_of_the_model_that_answered(run):
    place = run.directory / "evaluate" / "scores.json"
    scores = storage.read_json(place)
    scores["models"]["finetune"]["digest"] = "d"
    storage.write_json(place, scores)

    def quiz(value):
        return {"quiz": {"items": 4, "value": value, "topics": {"shipping": {"items": 4, "value": value}}}}

    records = (record_of_tasks(quiz(1.0)), record_of_tasks(quiz(0.0), "base"))
    public = record_of_tasks({"arc_easy": {"items": 400, "value": 0.2}})
    for created, record in enumerate((*records, public)):
        keep(record | {"created": float(created)}, run.directory / "evaluations")
    topics = {topic.name: topic for topic in topic_table(run)}
    assert (topics["shipping"].tasks, topics["shipping"].task_items) == (1.0, 4)
    assert "arc_easy" not in topics


def disliked(name):
    return Topic(name, 0, None, None, 0, None, 0, thumbs_up=1, thumbs_down=5)


def test_thumbs_down_propose_learning_from_them_and_the_new_recipe_reads_their_store(run, tmp_path):
    found = proposals(run, [disliked("shipping")], store=str(tmp_path / "thumbs.sqlite"))
    (learning,) = [proposal for proposal in found if proposal.key == "align"]
    changed = load_recipe(accept(run, [learning], tmp_path / "new.toml"))
    assert (changed.align.objective, changed.align.store) == ("kto", str(tmp_path / "thumbs.sqlite"))
    assert "align" not in [proposal.key for proposal in proposals(run, [disliked("shipping")])]


def with_domains(run, bits, tokens):
    every = sum(bits.values()) / len(bits)
    heldout = {name: {"bits_per_byte": value, "documents": 3} for name, value in ({"all": every} | bits).items()}
    storage.write_json(run.directory / "evaluate" / "scores.json", {"models": {"pretrain": {"heldout": heldout}}})
    sizes = {name: {"tokens": number} for name, number in tokens.items()}
    stage = StageFacts(
        name="tokens", directory=run.directory, content="", facts={"summary": {"train": {"domains": sizes}}}
    )
    return RunFacts(directory=run.directory, stages={**run.stages, "tokens": stage})


def test_a_hard_domain_proposes_more_of_its_documents_and_a_larger_share(run, tmp_path):
    changed = with_domains(run, {"law": 3.0, "news": 2.0}, {"law": 100, "news": 300})
    assert [(domain.name, domain.beside_all) for domain in domains_of(changed)] == [("law", 1.2), ("news", 0.8)]
    found = {proposal.key: proposal for proposal in proposals(changed, [])}
    assert found["pretrain.mixture"].value == {"weights": {"law": 0.5, "news": 0.75}}
    new = load_recipe(accept(changed, [found["pretrain.steps"], found["pretrain.mixture"]], tmp_path / "new.toml"))
    assert new.pretrain.mixture.weights == {"law": 0.5, "news": 0.75}
    assert new.pretrain.steps == round(1.5 * load_recipe(run.directory / "recipe.toml").pretrain.steps)


def test_the_page_and_the_text_show_topics_domains_and_proposals_and_nothing_runs(run):
    changed = with_domains(run, {"law": 3.0, "news": 2.0}, {"law": 100, "news": 300})
    table = [*topic_table(changed), disliked("<script>alert(1)</script>")]
    parts = (table, domains_of(changed), proposals(changed, table))
    page, text = weak_page("tiny", *parts), as_text(*parts)
    for told in ("shipping", "law", "finetune.epochs", "pretrain.mixture"):
        assert told in page
        assert told in text
    assert "<script" not in page
    assert "nothing to propose" in as_text(table, [], [])


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
    with pytest.raises(UsageError, match="no answers, task scores, ratings or thumbs"):
        topic_table(run)


HOSTILE = 'x\nbase.model="/p"\r\n[base]\x1b[2J\u2028model = "/q"'


def test_a_question_of_several_lines_names_its_topic_in_one_and_never_writes_the_recipe(run, tmp_path):
    answers = storage.read_json(run.directory / "evaluate" / "samples.json")["finetune"]["answers"]
    for item in answers:
        item |= {"expected": None, "reference": "b", "messages": [{"role": "user", "content": HOSTILE}]}
    storage.write_json(run.directory / "evaluate" / "samples.json", {"finetune": {"answers": answers}})
    scores = {"models": {"finetune": {"answers": {"right": 0.0}}}}
    storage.write_json(run.directory / "evaluate" / "scores.json", scores)
    (topic,) = topic_table(run)
    assert len(topic.name.splitlines()) == 1
    labelled = [disliked(HOSTILE)]  # labels are not shortened to a line
    for table in ([topic], labelled):
        (proposal, *_) = proposals(run, table, store="thumbs.sqlite")
        changed = load_recipe(accept(run, [proposal], tmp_path / f"{table[0].thumbs_down}.toml"))
        assert changed.base is None


def test_a_store_s_password_is_in_the_new_recipe_alone_which_only_its_owner_reads(run, tmp_path):
    found = proposals(run, [disliked("shipping")], store="postgresql://me:secret@host/db")
    (learning,) = [proposal for proposal in found if proposal.key == "align"]
    for told in (learning.shown, as_text([], [], [learning]), weak_page("tiny", [], [], [learning])):
        assert "me:***@host/db" in told
        assert "secret" not in told
    path = accept(run, [learning], tmp_path / "new.toml")
    assert path.read_text().count("secret") == 1
    assert load_recipe(path).align.store == "postgresql://me:secret@host/db"
    assert path.stat().st_mode & 0o777 == 0o600
