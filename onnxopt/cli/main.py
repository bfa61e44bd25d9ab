"""``onnxopt``: the lazy group of commands, and the one place where errors become messages and exit codes.

Nothing heavy is imported here: a command's module is loaded when that command runs, so ``onnxopt --help`` needs
neither onnx nor numpy.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import sys
from contextlib import suppress
from typing import Any

import click

from onnxopt import __version__
from onnxopt.cli.settings import Settings
from onnxopt.core.report import Interrupted
from onnxopt.errors import OnnxoptError, nearest, one_line

__all__ = ["cli", "main"]

COMMANDS = {
    "export": "A model of a framework as ONNX, written only when both compute the same.",
    "inspect": "What a model is made of, and which nodes would be quantized.",
    "optimize": "Clean-ups and folds that leave the outputs as they are.",
    "quantize": "INT8, static or dynamic: the fastest within the accuracy budget.",
    "prune": "Channels, heads and hidden units cut to a measured goal, and what reads them repaired.",
    "merge": "Several models as one file: averaged, weighted, voted, stacked, in series or in a cascade.",
    "distill": "Training of a model's weights towards the answers of a teacher.",
    "finetune": "Training of a model's weights on labelled data.",
    "compare": "Accuracy of a model against its reference, with bounds and drift.",
    "bench": "Latency of models, compared in pairs in fresh processes.",
    "gate": "Limits on latency, accuracy, size and memory against a baseline, for CI.",
    "doctor": "What ONNX Runtime can do here, and how well this machine can measure.",
    "demo": "The whole path on a small real model, in under two minutes.",
}
EXIT_USAGE = 2
COMPLETE = "_ONNXOPT_COMPLETE"
"""The variable through which a shell asks for completions."""
EXIT_SYSTEM = 3
EXIT_INTERNAL = 3
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141
"""What a shell reports for a process that SIGPIPE ended."""


class LazyGroup(click.Group):
    """Loads the module of a command when it is called; lists them from the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, loaded now.

        Raises:
            click.UsageError: There is none; the message names the nearest.
        """
        del ctx
        if cmd_name not in COMMANDS:
            raise click.UsageError(f"No such command {cmd_name!r}: {nearest(cmd_name, COMMANDS)}")
        return importlib.import_module(f"onnxopt.cli.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the table without loading a command."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="onnxopt")
@click.option("-v", "--verbose", count=True, help="Every note; twice: tracebacks of internal errors.")
@click.option("-q", "--quiet", is_flag=True, help="The verdict only, no progress.")
@click.option("--json", "as_json", is_flag=True, help="One JSON report on stdout and nothing else.")
@click.pass_context
def cli(ctx: click.Context, verbose: int, quiet: bool, as_json: bool) -> None:
    """Makes ONNX models smaller and faster, and proves on your runtime that they are faster and still right."""
    settings = ctx.ensure_object(Settings)
    settings.verbosity, settings.json = -1 if quiet else verbose, as_json


def main(args: list[str] | None = None) -> None:
    """Runs the command line and exits with the code of the table in the README."""
    arguments = sys.argv[1:] if args is None else args
    for name in ("SIGTERM", "SIGHUP"):  # clean up as for Ctrl-C, unless whoever started us wants the signal ignored
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to fail
    code = run(arguments)
    try:
        sys.stdout.flush()
    except OSError as error:
        # Else the interpreter tries again when it ends, and complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            code = EXIT_PIPE
        elif code != EXIT_SYSTEM:
            code = _environment(error, arguments, as_json=False)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Runs one command line; the exit code."""
    as_json = "--json" in arguments
    settings = Settings()
    try:
        if COMPLETE in os.environ:
            cli.main(arguments, prog_name="onnxopt")  # click answers the shell's question and exits
        with cli.make_context("onnxopt", list(arguments)) as ctx:
            ctx.obj = settings
            result: Any = cli.invoke(ctx)
    except click.exceptions.Exit as done:
        return done.exit_code
    except OnnxoptError as error:
        return _explain(error.what, error.where, error.fix, error.exit_code, as_json=as_json)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "onnxopt"
        return _explain(error.format_message(), where, f"see `{where} --help`", EXIT_USAGE, as_json=as_json)
    except Interrupted as stop:
        return _partial(stop, settings, " ".join(["onnxopt", *arguments]))
    except (KeyboardInterrupt, click.Abort):
        where, fix = " ".join(["onnxopt", *arguments]), "nothing was written; run the same command again"
        return _explain("interrupted", where, fix, EXIT_INTERRUPTED, as_json=as_json)
    except BrokenPipeError:
        return EXIT_PIPE
    except SystemExit as error:
        if COMPLETE in os.environ:
            raise
        if isinstance(error.__context__, BrokenPipeError):  # so rich ends when nobody reads stdout any more
            return EXIT_PIPE
        what, where = f"code that was called ended the program ({error.code})", " ".join(["onnxopt", *arguments])
        return _explain(what, where, "raise an exception instead of calling sys.exit", EXIT_SYSTEM, as_json=as_json)
    except (OSError, MemoryError) as error:
        if _wants_traceback(arguments):
            raise
        return _environment(error, arguments, as_json=as_json)
    except Exception as error:  # the last line of defence: users never see a traceback unless they ask for it
        if _wants_traceback(arguments):
            raise
        what = f"internal error, a defect in onnxopt: {type(error).__name__}: {error}"
        fix = "run again with `onnxopt -vv ...` and report the traceback"
        return _explain(what, " ".join(["onnxopt", *arguments]), fix, EXIT_INTERNAL, as_json=as_json)
    return result if isinstance(result, int) else 0


def _partial(stop: Interrupted, settings: Settings, command: str) -> int:
    """Prints what was done until the interrupt."""
    from onnxopt.cli.options import show

    show(stop.report, settings, EXIT_INTERRUPTED)
    fix = "what was done until then is on stdout, nothing was written; run the same command again"
    return _explain("interrupted", command, fix, EXIT_INTERRUPTED, as_json=False)


def _wants_traceback(arguments: list[str]) -> bool:
    return any(a.startswith("-vv") for a in arguments) or arguments.count("-v") > 1


def _environment(error: OSError | MemoryError, arguments: list[str], *, as_json: bool) -> int:
    """Explains what the system refused outside the places that know better."""
    command = " ".join(["onnxopt", *arguments])
    if isinstance(error, MemoryError):
        what, where = "there is not enough memory", command
        fix = "free memory, or give fewer or smaller samples (--samples)"
    else:
        what = f"the system refused: {error.strerror or error}"
        where = str(error.filename or command)
        fix = f"check permissions, limits and free space, that of {os.environ.get('TMPDIR', '/tmp')} too"
    return _explain(what, where, fix, EXIT_SYSTEM, as_json=as_json)


def _explain(what: str, where: str, fix: str, code: int, *, as_json: bool) -> int:
    if as_json:
        with suppress(OSError):  # stdout may be what is broken
            click.echo(json.dumps({"exit_code": code, "error": {"what": what, "where": where, "fix": fix}}, indent=2))
    click.echo(f"error: {one_line(what)}\n  where: {one_line(where)}\n  what to do: {one_line(fix)}", err=True)
    return code
