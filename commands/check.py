"""Reaching what a role depends on, from the command line."""

from __future__ import annotations

import sys

import click

from commands.group import begin_tool, command
from commands.roles import ROLES


@command("check")
@click.option("--role", type=click.Choice(ROLES), help="Only what this role needs.")
def check(role: str | None) -> None:
    """Reach every dependency and say how that went, a line each."""
    settings = begin_tool("check")
    from job_system.check import check as findings

    failed = False
    for finding in findings(settings, role):
        failed = failed or not finding.ok
        click.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name:8}  {finding.detail}")
    sys.exit(1 if failed else 0)
