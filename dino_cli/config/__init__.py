"""What can be asked of each command: one frozen dataclass per command, standard library only."""
