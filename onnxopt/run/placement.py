"""Which provider runs each node of a session.

ONNX Runtime tells since 1.24 (``get_provider_graph_assignment_info``). Before, it only logs it: then, and to learn why
a provider was not created, the session is created once more, in a child process whose log is read
(``python -m onnxopt.run.placement MODEL TARGET``).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import onnxruntime as ort

from onnxopt.errors import ProviderError
from onnxopt.run.child import child_environment
from onnxopt.run.providers import chain
from onnxopt.run.target import Target

__all__ = ["WHOLE_GRAPH", "Placed", "declined_because", "described", "placed_elsewhere", "record_placement"]

RECORD = "session.record_ep_graph_assignment_info"
ASK = "get_provider_graph_assignment_info"
WHOLE_GRAPH = "(all)"
"""The operator of an entry that stands for a graph as a whole."""
VERBOSE = 0
SHOWN = 5
"""Nodes named in a message."""
CHILD_SECONDS = 600
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
ERROR = re.compile(r"\[E:onnxruntime:[^\]]*\]\s*(?P<text>.*)")
PLACED_ON = re.compile(
    r"VerifyEachNodeIsAssignedToAnEp\]\s+(?P<all>All nodes|Node\(s\)) placed on \[(?P<provider>\w+)\]"
)
NODE = re.compile(r"VerifyEachNodeIsAssignedToAnEp\]\s+(?P<op>\S+) \((?P<name>.*)\)\s*$")


@dataclass(frozen=True)
class Placed:
    """A node of the graph as ONNX Runtime runs it, after its optimizations, and the provider that runs it."""

    op: str
    name: str
    provider: str

    def __str__(self) -> str:
        return f"{self.op} {self.name!r} ({self.provider})" if self.name else f"{self.op} ({self.provider})"


def described(nodes: Sequence[Placed]) -> str:
    """The operators of the nodes by provider, with the names of the first few that have one."""
    counts = Counter((node.provider, "all of a graph" if node.op == WHOLE_GRAPH else node.op) for node in nodes)
    parts = [
        f"{', '.join(f'{n} {op}' if n > 1 else op for (on, op), n in counts.items() if on == name)} on {name}"
        for name in dict.fromkeys(node.provider for node in nodes)
    ]
    names = [node.name for node in nodes if node.name]
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return "; ".join(parts) + (f" ({shown})" if names else "")


def record_placement(options: ort.SessionOptions) -> None:
    """Makes ONNX Runtime remember where it puts each node, if it can."""
    if hasattr(ort.InferenceSession, ASK):
        options.add_session_config_entry(RECORD, "1")


def placed_elsewhere(raw: ort.InferenceSession, path: Path, target: Target, wanted: str) -> tuple[Placed, ...]:
    """The nodes of a session, created with ``record_placement``, that do not run on the provider ``wanted``.

    Raises:
        ProviderError: ONNX Runtime does not tell.
    """
    ask: Callable[[], Sequence[ort.OrtEpAssignedSubgraph]] | None = getattr(raw, ASK, None)
    if ask is not None:
        every = [Placed(n.op_type, n.name, part.ep_name) for part in ask() for n in part.get_nodes()]
    else:
        log = _verbose_log(path, target)
        every = list(read_placement(log))
        if not any(PLACED_ON.search(line) for line in log):
            raise ProviderError(
                f"ONNX Runtime {ort.__version__} does not tell which nodes {wanted} runs",
                where=path.name,
                fix="install ONNX Runtime 1.24 or newer, or accept unknown placement with --allow-fallback",
            )
    return tuple(node for node in every if node.provider != wanted)


def read_placement(log: Iterable[str]) -> Iterator[Placed]:
    """The nodes that a verbose log of ONNX Runtime lists, those of nested graphs included.

    Where one provider takes a whole graph the log has no list; it then counts as one node ``(all)``.
    """
    provider = ""
    for line in log:
        if found := PLACED_ON.search(line):
            provider = found["provider"]
            if found["all"] == "All nodes":
                yield Placed(WHOLE_GRAPH, "", provider)
        elif found := NODE.search(line):
            yield Placed(found["op"], found["name"], provider)


def declined_because(path: Path, target: Target) -> str:
    """Why ONNX Runtime does not create the provider of ``target``, in its own words (empty: it does not say)."""
    return next((found["text"].strip() for line in _verbose_log(path, target) if (found := ERROR.search(line))), "")


def _verbose_log(path: Path, target: Target) -> list[str]:
    """All that ONNX Runtime logs while it creates a session, colours removed."""
    command = [sys.executable, "-P", "-m", __name__, str(path), json.dumps(asdict(target))]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=child_environment(), timeout=CHILD_SECONDS
        )
    except subprocess.TimeoutExpired:
        return []
    return COLOUR.sub("", done.stderr.decode(errors="replace")).splitlines()


def _main(path: str, target: str) -> int:
    wanted = Target(**json.loads(target))
    options = ort.SessionOptions()
    options.log_severity_level = VERBOSE
    for key, value in wanted.session_config.items():
        options.add_session_config_entry(key, value)
    ort.InferenceSession(path, sess_options=options, providers=chain(wanted), enable_fallback=0)
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
