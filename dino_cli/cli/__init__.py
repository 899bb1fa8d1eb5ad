"""Talks to a person: Typer and rich live here and nowhere else. One file per command."""
