"""Readers of file formats from outside: bytes in, texts or a reason out. None of them knows a recipe."""
