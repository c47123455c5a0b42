"""What a type checker makes of the public API. Nothing here runs: mypy checks it (`make lint`), with all the rest.

An error that has to be there is ignored by its code, and mypy reports an `ignore` that nothing needs.
"""
