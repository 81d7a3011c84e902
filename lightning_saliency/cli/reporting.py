"""The command line `report`: from the records of runs to one HTML file."""

from __future__ import annotations

import argparse
from typing import Any

from lightning_saliency._names import printable
from lightning_saliency.dashboard.report import MAX_BYTES, make_report
from lightning_saliency.dashboard.runs import open_records
from lightning_saliency.models.errors import WrongArgumentError

_EPILOG = """examples:
  # one run, or all runs below a folder
  python -m lightning_saliency report lightning_logs/version_3 --output saliency.html
  python -m lightning_saliency report lightning_logs --output saliency.html --max-mb 50

It ends with status 0, with 2 for wrong arguments or an output that cannot be written to, and with 130 after Ctrl-C."""


def add_report(commands: Any) -> None:
    """Add the command `report` to those of a command line."""
    description = "Write what runs have shown, every epoch under one scrubber, as one HTML file without a server."
    parser: argparse.ArgumentParser = commands.add_parser(
        "report",
        help=description,
        description=description,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s RUN [RUN ...] --output FILE [--max-mb MB]",
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="folders of runs, or above runs: all that have a record below; also "
        "addresses of remote stores")  # fmt: skip
    add("--output", required=True, metavar="FILE", help="the HTML file, replaced where it is there")
    add("--max-mb", type=_megabytes, default=MAX_BYTES / 1e6, metavar="MB", help="the most megabytes of the file: "
        "beyond it maps with many pixels are reduced, then looks left out, and the page says so; default: "
        "%(default)g")  # fmt: skip
    parser.set_defaults(run=write_report, command=parser)


def write_report(options: argparse.Namespace) -> int:
    """Write the report that the arguments of a command line ask for.

    Returns:
        The exit status: 0.

    Raises:
        WrongArgumentError: There is no record, the limit is too small, or the output cannot be written.
    """
    try:
        records = open_records(options.runs)
        shown = {name: record for name, record in records.items() if len(record) and record.run is not None}
        if not shown:
            problems = "; ".join(problem for record in records.values() for problem in record.problems.values())
            got = f"{', '.join(options.runs)}{f': {problems}' if problems else ''}"
            raise WrongArgumentError(f"Expected RUN to have a record with looks, got {got}.")
    except OSError as error:
        raise WrongArgumentError(str(error)) from error
    try:
        report = make_report(shown, max_bytes=int(options.max_mb * 1e6))
    except ValueError as error:
        raise WrongArgumentError(f"--max-mb: {error}") from error
    try:
        report.save(options.output)
    except (OSError, ValueError) as error:
        raise WrongArgumentError(f"Expected --output to be a file, got {options.output}: {error}.") from error
    for name in records.keys() - shown.keys():
        reason = "; ".join(records[name].problems.values()) or "it has no looks"
        print(f"Skipped {printable(name)}: {printable(reason)}")
    if report.note:
        print(report.note)
    size = f"{len(report.html) / 1e6:.1f} MB"
    print(f"Reported {len(shown)} of {len(records)} records, {size}: {printable(options.output)}")
    return 0


def _megabytes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of megabytes above 0, got {text!r}")
    return number
