"""Who is let in to the HTTP of a node, and to whom a client of ours shows its token.

    rules.py         what a request is refused for, and which right it needs (pure)
    hosts.py         the names under which a node is asked
    token_file.py    the tokens of a node, and the one of a client, read from files
    app.py           the ASGI application around that of a node
    token_bearer.py  a token, and the nodes that get to see it

docs/http-security.md is for users.
"""
