"""Recipes: what to build, checked as a whole; stages wired together, cached, resumed, with lineage."""
