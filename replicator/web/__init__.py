"""What a node serves over HTTP. Needs the extra `web`; nothing outside this package and `cli` imports it."""
