"""What a node serves over HTTP, whatever its state is. Needs the extra `web`; imported only when a node is served."""
