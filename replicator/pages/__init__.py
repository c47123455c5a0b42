"""An SQLite database, page by page: what a program did to its pages is read (`capture.py`), sent as a change
(`format/pages.py`), and done to the database that every node keeps of what was published (`shadow.py`).
"""
