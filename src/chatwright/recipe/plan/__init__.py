"""What to train on this machine, in this time, from these documents: measured, chosen by scaling rules, predicted."""

from chatwright.recipe.plan.accelerators import (
    ACCELERATORS,
    Fleet,
    fleet_of,
    machine_of,
    sky_task,
    slurm_script,
    torchrun_script,
)
from chatwright.recipe.plan.choose import affordable, choose, step_timer, vocabulary_for
from chatwright.recipe.plan.corpus import CorpusSize, require_files, size_of_documents, size_of_run
from chatwright.recipe.plan.fitting import FittedLaw, fit
from chatwright.recipe.plan.ladder import Rung, climb, kept_rungs, ladder_seconds, trainer_on
from chatwright.recipe.plan.machine import Machine, StepRate, measure_machine
from chatwright.recipe.plan.path import Advice, advise
from chatwright.recipe.plan.proposal import Budget, Candidate, Plan
from chatwright.recipe.plan.render import as_json, as_recipe
from chatwright.recipe.plan.scaling import PUBLISHED, Law, LossLaw, effective_tokens
from chatwright.recipe.plan.shapes import learning_rate_for
from chatwright.recipe.plan.target import plan_for

__all__ = [
    "ACCELERATORS",
    "Advice",
    "Budget",
    "Candidate",
    "CorpusSize",
    "FittedLaw",
    "Fleet",
    "Law",
    "LossLaw",
    "Machine",
    "PUBLISHED",
    "Plan",
    "Rung",
    "StepRate",
    "advise",
    "affordable",
    "as_json",
    "as_recipe",
    "choose",
    "climb",
    "effective_tokens",
    "fit",
    "fleet_of",
    "kept_rungs",
    "ladder_seconds",
    "learning_rate_for",
    "machine_of",
    "measure_machine",
    "plan_for",
    "require_files",
    "size_of_documents",
    "size_of_run",
    "sky_task",
    "slurm_script",
    "step_timer",
    "torchrun_script",
    "trainer_on",
    "vocabulary_for",
]
