"""One node's copy of the state, moved together with what the protocol knows."""
