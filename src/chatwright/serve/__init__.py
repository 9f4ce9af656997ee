"""The server, its page and the terminal chat: a model for people and programs to talk with."""
