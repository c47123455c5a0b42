"""What a node serves over HTTP. Needs the extra `web`; only `service/serve.py` imports it, when a node is served."""
