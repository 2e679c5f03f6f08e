"""Runs one measurement in a process of its own, so that none inherits the heap of another.

    python -m benchmarks.child MODULE FUNCTION '[arguments as JSON]'

The last line on stdout is the function's result as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def in_child(module: str, function: str, *arguments: object) -> Any:
    """Call `function` of `benchmarks.module` in a fresh process and give what it returned."""
    command = [sys.executable, "-m", "benchmarks.child", module, function, json.dumps(arguments)]
    # Sets of strings in one order, as `perdure serve` has it.
    environ = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    module, function, arguments = sys.argv[1:]
    measure = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    print(json.dumps(measure(*json.loads(arguments))))


if __name__ == "__main__":
    main()
