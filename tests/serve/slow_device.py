"""A device as a process of its own that trains until the file `go` lies in its state directory."""

import asyncio
import sys
import time
from pathlib import Path
from threading import Event as Flag

from hedgerow.serve.device import Outcome
from hedgerow.serve.joining import JoinFile
from hedgerow.wire.messages import Offer
from tests.serve.hosting import HeldTrainer, Host


class FileTrainer(HeldTrainer):
    """Says in files that it began, and waits for one."""

    def __init__(self, name: str, samples: int, state: Path) -> None:
        super().__init__(name, samples)
        self._state = state

    def train(self, offer: Offer, blob: bytes, stop: Flag) -> Outcome:
        with (self._state / "began").open("a") as file:
            file.write(f"{offer.round}\n")
        while not (self._state / "go").exists() and not stop.is_set():
            time.sleep(0.01)
        return super().train(offer, blob, stop)


async def main(join: Path, home: Path, name: str) -> None:
    host = Host(name, JoinFile.load(join), home)
    host.state_path.mkdir(mode=0o700, parents=True, exist_ok=True)
    host.trainer = FileTrainer(name, host.samples, host.state_path)
    await host.start()
    await host.shell.tasks.failed


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
