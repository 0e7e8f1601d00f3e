"""``python -m supertickets`` is the command ``supertickets``."""

from __future__ import annotations

from supertickets.cli import main

if __name__ == "__main__":
    main()
