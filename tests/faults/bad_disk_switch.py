"""How a test tells the bad disk what to do; apart from ``bad_disk.py``, which only a worker may import."""

SWITCH = "bad-disk.json"
