"""`pabal serve` that finds its free disk space in the file FREE of its working directory, and looks often."""

from __future__ import annotations

from pathlib import Path

import pabal.server.resources
from pabal.cli.main import main

FREE = "free"


def disk_free_bytes(directory: Path) -> int:
    return int(Path(FREE).read_text())


if __name__ == "__main__":
    pabal.server.resources.disk_free_bytes = disk_free_bytes
    pabal.server.resources.RESOURCES_CHECK_SECONDS = 0.02
    main()
