"""What ``import klaviyo_audit`` takes over ``import klaviyo_api``, in fresh interpreters."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Effort, Reading, difference, difference_noise, interleave, medians

if TYPE_CHECKING:
    from collections.abc import Callable

ROW = "import"
_PROGRAM = """
import json, os, sys, tempfile, time
os.environ["KLAVIYO_AUDIT_DIR"] = os.path.join(sys.argv[1], "trail")
begun = time.perf_counter()
import klaviyo_api
{more}
took = time.perf_counter() - begun
api = sorted(name for name in sys.modules if name.startswith("openapi_client.api."))
print(json.dumps([took * 1000, api]))
"""


def run(effort: Effort) -> list[Reading]:
    """Milliseconds, and which API modules were imported."""
    client = "client = klaviyo_api.KlaviyoAPI('pk_' + '0' * 34)"
    programs = {
        "klaviyo_api": "",
        "with klaviyo_audit": "import klaviyo_audit",
        "a client": client,
        "an audited client": f"import klaviyo_audit; {client}; klaviyo_audit.audit(client)",
    }
    blocks = {name: _importing(more, str(effort.folder)) for name, more in programs.items()}
    taken = interleave(blocks, effort.rounds(25, 8))
    millis = {name: [took for took, _ in of] for name, of in taken.items()}
    before, after = (set(taken[name][-1][1]) for name in ("klaviyo_api", "with klaviyo_audit"))
    added = set(taken["an audited client"][-1][1]) - set(taken["a client"][-1][1])
    return [
        Reading(
            ROW,
            "import klaviyo_audit over import klaviyo_api",
            difference(millis["with klaviyo_audit"], millis["klaviyo_api"]),
            "ms",
            80,
            medians(millis, "ms"),
            difference_noise(millis["klaviyo_api"]),
        ),
        Reading(
            ROW,
            "import and the first audit() of a client, over import and a client",
            difference(millis["an audited client"], millis["a client"]),
            "ms",
            None,
            "what import leaves for the first use, the settings, and the journal's first line; "
            f"{len(added)} API modules of the SDK",
            difference_noise(millis["a client"]),
        ),
        Reading(
            ROW,
            "API modules of the SDK it imports",
            len(after - before),
            "modules",
            0,
            ", ".join(sorted(after - before)[:3]),
        ),
    ]


def _importing(more: str, folder: str) -> Callable[[], tuple[float, list[str]]]:
    program = _PROGRAM.format(more=more)

    def block() -> tuple[float, list[str]]:
        done = subprocess.run(
            [sys.executable, "-c", program, folder], capture_output=True, text=True, check=True
        )
        took, api = _parsed(done.stdout)
        return took, api

    return block


def _parsed(output: str) -> Any:
    return json.loads(output)
