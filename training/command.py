"""How a trainer's command ends: an exit code and, where it could not go on, one line that says why."""

from __future__ import annotations

import sys
from collections.abc import Callable


def run_command(program: str, job: Callable[[], None]) -> int:
    """Runs `job` and returns the exit code of the command `program`.

    0 when it has finished; 1 when a number is none any more or a file cannot be read or written; 2 for a mistake of
    the user's; 130 when interrupted.
    """
    try:
        job()
    except KeyboardInterrupt:
        return _fail(program, 130, "interrupted; the same command goes on from the last saved state")
    except ValueError as error:
        # One from a loader's process comes with its traceback, whose last line it is.
        return _fail(program, 2, (str(error).splitlines() or ["a value is wrong"])[-1].removeprefix("ValueError: "))
    except (FloatingPointError, OSError) as error:
        return _fail(program, 1, error)
    return 0


def _fail(program: str, code: int, error: object) -> int:
    print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code
