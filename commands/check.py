"""Reaching what a role depends on, from the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from commands.cli import begin_tool, command
from commands.roles import ROLES
from weavloader.settings import Settings


@command("check")
@click.option("--role", type=click.Choice(ROLES), help="Whether this role works on this host.")
def check(role: str | None) -> None:
    """Reach every dependency, or ask one role on this host, and say how that went, a line each."""
    settings = begin_tool("check")
    from job_system.findings import findings

    failed = False
    for finding in findings(_probes(role), settings):
        failed = failed or not finding.ok
        click.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name:9}  {finding.detail}")
    sys.exit(1 if failed else 0)


def _probes(role: str | None) -> dict[str, Callable[[Settings], str]]:
    if role:
        from job_system.role_health import probes_of

        return probes_of(role)
    from job_system.checks import PROBES

    return PROBES
