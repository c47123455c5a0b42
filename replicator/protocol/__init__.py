"""Rules: the fold, who takes over, what became of a write, when a snapshot is due. Pure, like `format`."""
