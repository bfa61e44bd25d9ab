"""What the documents tell people to type is accepted by the command line of today."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from onnxopt.cli.main import COMMANDS, cli
from onnxopt.pytest_plugin import Gate

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "docs/ci.md", "docs/distill.md", "docs/export.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
SHELL = re.compile(r"^[|&;<>]|^\d?>")
FOREIGN = {"--junit-xml"}
"""Options of other programs that the text names."""
SETTINGS = re.compile(r"(?<!\S)\[|\](?!\S)|\.\.\.")
"""What marks a part as optional or repeated."""


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return [body for name, body in FENCE.findall(text) if name == language]


def prose(document: str) -> str:
    return FENCE.sub("", (ROOT / document).read_text(encoding="utf-8"))


def strings(value: Any) -> Iterator[str]:
    """Every string of a YAML document."""
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(item)


def lines_of(script: str) -> list[str]:
    return [line.strip().removeprefix("$ ") for line in script.replace("\\\n", " ").splitlines()]


def command_lines(document: str) -> list[list[str]]:
    """The arguments of each call of onnxopt in a document: in scripts, in YAML, in the text, in the command table."""
    scripts = blocks(document, "") + [s for body in blocks(document, "yaml") for s in strings(yaml.safe_load(body))]
    found = [line for script in scripts for line in lines_of(script)]
    found += [code for code in CODE.findall(prose(document)) if len(code.split()) > 2]  # else just a name
    calls: list[list[str]] = []
    for line in found:
        words = shlex.split(SETTINGS.sub(" ", line), comments=True) if line.startswith("onnxopt ") else []
        end = next((i for i, word in enumerate(words) if SHELL.match(word)), len(words))
        if any(word in COMMANDS for word in words[1:end]):
            calls.append(words[1:end])
    for row in re.findall(r"^\| `(\w+ [^`]*)`", prose(document), re.MULTILINE):
        words = shlex.split(SETTINGS.sub(" ", row))
        calls += [words] if words[0] in COMMANDS else []
    return calls


CALLS = [(document, call) for document in DOCUMENTS for call in command_lines(document)]


@pytest.mark.parametrize(
    "call",
    [pytest.param(call, id=" ".join(["onnxopt", *call])) for _, call in CALLS],
)
def test_every_command_line_parses(call: list[str]) -> None:
    place = next(i for i, word in enumerate(call) if word in COMMANDS)
    context = cli.make_context("onnxopt", call[: place + 1])
    loaded(call[place]).make_context(call[place], call[place + 1 :], parent=context)


def test_the_command_lines_were_found() -> None:
    names = {call[0] if call[0] in COMMANDS else call[1] for _, call in CALLS}
    assert names >= {"inspect", "optimize", "quantize", "compare", "bench", "gate"}
    assert sum(document == "docs/ci.md" and "--junit" in call for document, call in CALLS) >= 3


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_option_in_the_text_exists(document: str) -> None:
    params = [p for command in [cli, *map(loaded, COMMANDS)] for p in command.params]
    known = {option for p in params for option in (*p.opts, *p.secondary_opts)}
    named = {word for code in CODE.findall(prose(document)) for word in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)}
    assert named - known - FOREIGN == set()


def loaded(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def test_the_workflow_of_github() -> None:
    workflow = yaml.safe_load(blocks("docs/ci.md", "yaml")[0])
    assert workflow[True]["pull_request"]["paths"]  # `on` is a boolean in YAML 1.1
    steps = workflow["jobs"]["gate"]["steps"]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    assert written(step["run"] for step in steps if "run" in step) == set(steps[-2]["with"]["path"].split())
    assert all("!cancelled()" in step["if"] for step in steps[-2:])


def test_the_job_of_gitlab() -> None:
    (job,) = yaml.safe_load(blocks("docs/ci.md", "yaml")[1]).values()
    files = written(job["script"])
    assert files == set(job["artifacts"]["paths"]) and job["artifacts"]["reports"]["junit"] in files
    assert job["artifacts"]["when"] == "always" and job["allow_failure"]["exit_codes"] == [5]
    assert all(isinstance(line, str) for part in ("before_script", "script", "after_script") for line in job[part])


def written(scripts: Iterator[str] | list[str]) -> set[str]:
    """The files that the calls of the gate in ``scripts`` write."""
    words = [word for script in scripts for line in lines_of(script) for word in line.split()]
    return {words[i + 1] for i, word in enumerate(words) if word in ("--junit", "--markdown", "--report")}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_snippets_name_what_exists(document: str) -> None:
    import onnxopt

    keywords = set(inspect.signature(Gate.__call__).parameters)
    for node in (node for body in blocks(document, "python") for node in ast.walk(ast.parse(body))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "onnxopt":
            assert hasattr(onnxopt, node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "onnxopt_gate":
            assert {k.arg for k in node.keywords} <= keywords
