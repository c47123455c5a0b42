"""The log in Redis: scripts (`lua/`), connections, finding the master; `interface.py` is what others see."""
