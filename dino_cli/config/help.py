"""The options of `dino help`."""

from dataclasses import dataclass

from dino_cli.config.setting import setting

__all__ = ["HelpConfig"]


@dataclass(frozen=True, kw_only=True)
class HelpConfig:
    """`dino help`: texts about what several commands share, or the help of one command."""

    topic: tuple[str, ...] = setting(
        (),
        "A topic, or a command such as train or eval knn. None: list the topics.",
        argument=True,
        metavar="TOPIC",
    )
