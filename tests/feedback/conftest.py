"""A real PostgreSQL server for the tests that need one: in a directory and on a socket of its own, with no network."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

PLACES = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), Path("/usr/local/bin"), Path("/usr/bin")]


@pytest.fixture(scope="session")
def postgresql():
    """The URL of an empty server, or a skip where there is no PostgreSQL, no driver, or nobody to run it."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    programs = next((place for place in PLACES if (place / "initdb").exists() and (place / "pg_ctl").exists()), None)
    if programs is None:
        pytest.skip("PostgreSQL's programs are not installed")
    if os.getuid() == 0 and not _is_user("postgres"):
        pytest.skip("PostgreSQL refuses to run as root, and there is no user `postgres`")
    home = Path(tempfile.mkdtemp(prefix="chatwright-pg-"))  # short: a socket's path may have 107 bytes
    who = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    if who:
        shutil.chown(home, "postgres", "postgres")

    def call(program, *arguments):
        subprocess.run([programs / program, *arguments], check=True, capture_output=True, cwd=home, **who)

    try:
        call("initdb", "-D", home / "data", "-A", "trust", "-U", "tester", "-E", "UTF8", "--locale=C", "--no-sync")
        call(
            "pg_ctl", "-D", home / "data", "-w", "-l", home / "log", "-o", f"-k {home} -c listen_addresses=''", "start"
        )
        try:
            yield f"postgresql+psycopg://tester@/postgres?host={home}"
        finally:
            call("pg_ctl", "-D", home / "data", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _is_user(name):
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
