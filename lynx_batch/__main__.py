"""`lynx-batch`, or `python -m lynx_batch`. Signals end it properly from the first moment on."""

import os
import sys

from lynx_batch import exits
from lynx_batch.interrupts import end_politely


def main() -> None:
    end_politely()
    if sys.stdout is None:  # the parent closed it, as daemons do
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  open to the end
    try:
        from lynx_batch.cli import app
    except KeyboardInterrupt:
        sys.exit(exits.STOPPED)
    app()


if __name__ == "__main__":
    main()
