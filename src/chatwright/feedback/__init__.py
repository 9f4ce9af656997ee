"""Conversations and what people say of answers: the common currency of tuning, evaluation and the chat page."""
