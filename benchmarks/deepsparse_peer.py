"""DeepSparse in a process and an environment of its own; speaks JSON lines with its parent.

    python deepsparse_peer.py MODEL.onnx INPUT.npy OUTPUT.npy THREADS

Writes the output for the input, prints ``{"version": ...}``, then answers every line with a number
of calls on standard input by ``{"seconds": ...}``. Needs numpy and deepsparse, nothing of this
repository. DeepSparse's community licence allows this use; nothing here depends on it.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> None:
    """Serve the parent until its end of the pipe is closed."""
    model, source, target, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the engine prints its banner to standard output

    import deepsparse  # type: ignore[import-not-found]  # another environment's
    import numpy as np

    images = [np.load(source)]
    engine = deepsparse.compile_model(model, batch_size=len(images[0]), num_cores=int(threads))
    np.save(target, engine.run(images)[0])
    print(json.dumps({"version": deepsparse.__version__}), file=answers)
    for line in sys.stdin:
        calls = int(line)
        start = time.perf_counter()
        for _ in range(calls):
            engine.run(images)
        print(json.dumps({"seconds": time.perf_counter() - start}), file=answers)


if __name__ == "__main__":
    main()
