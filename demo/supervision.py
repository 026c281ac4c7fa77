"""supervisord's configuration for the demo, derived from the one that production runs."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Mapping, Sequence
from configparser import RawConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRODUCTION = ROOT / "supervisord.conf"

# A demo's data is thrown away: nobody waits minutes for what a worker has begun.
_STOP_SECONDS = "5"
_RETRIES = "3"
# What production does not run here keeps nothing that a kill could harm.
_ADDED = {
    "priority": "11",
    "autorestart": "true",
    "redirect_stderr": "true",
    "stopsignal": "KILL",
    "stopasgroup": "true",
    "killasgroup": "true",
}


def demo_config(
    folder: Path, commands: Mapping[str, Sequence[str]], production: Path = PRODUCTION
) -> str:
    """The configuration of a demo that lives in ``folder``.

    Args:
        folder: For supervisord's socket and a log of each program, ``log/<program>.log``.
        commands: Command lines of programs that production does not have, or has otherwise.
    """
    config = RawConfigParser()
    config.read_string(production.read_text())
    _listen_in(folder, config)
    for name, command in commands.items():
        _set_command(config, name, command)
    for section in config.sections():
        if section.startswith("program:"):
            _settle(config, section, folder)
    text = io.StringIO()
    config.write(text)
    return text.getvalue()


def log_of(folder: Path, program: str) -> Path:
    """Where a program's output goes."""
    return folder / "log" / f"{program}.log"


def socket_of(folder: Path) -> Path:
    """Where supervisord listens."""
    return folder / "supervisord.sock"


def _listen_in(folder: Path, config: RawConfigParser) -> None:
    config["supervisord"]["pidfile"] = _literal(str(folder / "supervisord.pid"))
    config["unix_http_server"]["file"] = _literal(str(socket_of(folder)))
    config["supervisorctl"]["serverurl"] = _literal(f"unix://{socket_of(folder)}")


def _set_command(config: RawConfigParser, name: str, command: Sequence[str]) -> None:
    section = f"program:{name}"
    if not config.has_section(section):
        config[section] = _ADDED
    config[section]["command"] = _literal(shlex.join(command))


def _settle(config: RawConfigParser, section: str, folder: Path) -> None:
    program = config[section]
    words = shlex.split(program["command"])
    if words[0] == "python":
        program["command"] = shlex.join([sys.executable, *words[1:]])
    log = log_of(folder, section.removeprefix("program:"))
    program.update(
        {
            "autostart": "true",
            "directory": _literal(str(ROOT)),
            "stdout_logfile": _literal(str(log)),
            "stdout_logfile_maxbytes": "0",
            "stopwaitsecs": _STOP_SECONDS,
            "startretries": _RETRIES,
        }
    )


def _literal(text: str) -> str:
    """``text`` that supervisord does not expand."""
    return text.replace("%", "%%")
