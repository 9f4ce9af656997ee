"""What to train on this machine, in this time, from these documents: measured, chosen by scaling rules, predicted."""

from chatwright.recipe.plan.accelerators import Fleet, fleet_of, machine_of, slurm_script, torchrun_script
from chatwright.recipe.plan.choose import Budget, Candidate, Plan, choose, step_timer, vocabulary_for
from chatwright.recipe.plan.corpus import CorpusSize, size_of_documents, size_of_run
from chatwright.recipe.plan.machine import Machine, measure_machine
from chatwright.recipe.plan.path import Advice, advise
from chatwright.recipe.plan.render import as_json, as_recipe
from chatwright.recipe.plan.scaling import LossLaw, effective_tokens
from chatwright.recipe.plan.shapes import learning_rate_for

__all__ = [
    "Advice",
    "Budget",
    "Candidate",
    "CorpusSize",
    "Fleet",
    "LossLaw",
    "Machine",
    "Plan",
    "advise",
    "as_json",
    "as_recipe",
    "choose",
    "effective_tokens",
    "fleet_of",
    "learning_rate_for",
    "machine_of",
    "measure_machine",
    "size_of_documents",
    "size_of_run",
    "slurm_script",
    "step_timer",
    "torchrun_script",
    "vocabulary_for",
]
