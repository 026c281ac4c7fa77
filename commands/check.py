"""The command `check`."""

from __future__ import annotations

import sys

import click

from commands.cli import begin_tool, command
from commands.roles import ROLES
from weavloader.logs import mask, printable


@command("check")
@click.option(
    "--role", type=click.Choice(ROLES), help="Check the health of this role on this host instead."
)
def check(role: str | None) -> None:
    """Check every dependency, one line each; exit with 1 when a check fails."""
    settings = begin_tool("check")
    from job_system.checks import DEPENDENCY_CHECKS, role_checks, run_checks

    checks = role_checks(role) if role else DEPENDENCY_CHECKS
    failed = False
    for result in run_checks(checks, settings):
        failed = failed or not result.ok
        detail = printable(mask(result.detail))
        click.echo(f"{'ok  ' if result.ok else 'FAIL'}  {result.name:9}  {detail}")
    sys.exit(1 if failed else 0)
