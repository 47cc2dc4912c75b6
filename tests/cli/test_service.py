"""The service: its settings, its units, and where they are written. Systemd's own tools judge the units."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from overlaysync.cli.log import Level, goes_to_journal, level_of, leveled
from overlaysync.cli.service_settings import EXAMPLES, ServiceSettings, add_settings, load_settings
from overlaysync.cli.service_site import install_site, system_site
from overlaysync.cli.service_units import NAME, system_unit, user_unit
from overlaysync.errors import OverlaysyncError, UsageError
from overlaysync.node.notify import READY, notify, watchdog_s

needs_systemd = pytest.mark.systemd


def analyze(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--man=no", *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def service(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A service command of a user whose home is empty."""
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    return subprocess.run(
        [sys.executable, "-m", "overlaysync", "service", *words],
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
    )


def config(home: Path, text: str) -> dict[str, str]:
    """The environment of a home with these settings."""
    (home / "config").mkdir(parents=True)
    (home / "config" / "config.toml").write_text(text)
    return {"OVERLAYSYNC_HOME": str(home)}


# -- settings ----------------------------------------------------------------------------------------


def test_settings_are_read(tmp_path: Path) -> None:
    environment = config(
        tmp_path,
        '[service]\nshare = ["/srv/images", "~/vm"]\nkeep = ["red"]\npush = ["lab"]\npush_hours = 1\n',
    )
    settings = load_settings(environment)
    assert settings.paths == ["/srv/images", os.path.expanduser("~/vm")]
    assert (settings.keep, settings.push, settings.push_hours) == (("red",), ("lab",), 1)


def test_without_a_table_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert load_settings({"OVERLAYSYNC_HOME": str(tmp_path)}).is_empty
    assert load_settings(config(tmp_path, '[fetch]\nmasters = "x"\n')).is_empty


def test_a_setting_that_there_is_not_is_guessed(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(config(tmp_path, '[service]\nshares = ["/srv"]\n'))
    assert "did you mean 'share'" in str(caught.value) and "config.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("share", '"/srv"', "a text where a list is expected"),
        ("share", "[1]", "in the list, a whole number where a text is expected"),
        ("share", '["srv"]', "'srv' is not an absolute path"),
        ("team", '["red"]', "a list where a text is expected"),
        ("recursive", '"yes"', "a text where true or false is expected"),
        ("exclude", '"*.bak"', "a text where a list is expected"),
        ("keep", '"red"', "a text where a list is expected"),
        ("keep", '["r/d"]', "'r/d' cannot be a team's name: a name has 1 to 64"),
        ("live", '"15"', "'15' is not an interval from one minute to one week"),
        ("live", "15", "a whole number where a text is expected"),
        ("push", '"lab"', "a text where a list is expected"),
        ("push_hours", "0", "0 is not a number above 0"),
        ("push_hours", '"6h"', "a text where a number is expected"),
        ("peer", '"bob"', "a text where a list is expected"),
        ("peer", '["bob:x"]', "'bob:x' is not an address"),
        ("iface", '"eth0"', "a text where a list is expected"),
        ("port", "70000", "70000 is not a number from 0 to 65535"),
        ("port", '"29450"', "a text where a whole number is expected"),
        ("limit_rate", '"fast"', "'fast' is not a size"),
        ("limit_rate", "20", "a whole number where a text is expected"),
        ("recheck", "-1", "-1 is not a number of days"),
        ("recheck", "nan", "nan is not a number of days"),
        ("page", "1", "a whole number where true or false is expected"),
        ("page_port", "-1", "-1 is not a number from 0 to 65535"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_with_its_reason_and_how_it_is_written(
    tmp_path: Path, name: str, value: str, why: str
) -> None:
    environment = config(tmp_path, f"[service]\n{name} = {value}\n")
    with pytest.raises(UsageError) as caught:
        load_settings(environment)
    error = caught.value
    assert error.what == f"{tmp_path}/config/config.toml cannot be used: '{name}' in [service]"
    assert error.why.startswith(why)
    assert error.hint == f"write it like this: {name} = {EXAMPLES[name]}"


def test_what_a_setting_is_written_like_can_be_used(tmp_path: Path) -> None:
    assert EXAMPLES.keys() == set(ServiceSettings.__struct_fields__)
    table = "".join(f"{name} = {example}\n" for name, example in EXAMPLES.items())
    assert not load_settings(config(tmp_path, f"[service]\n{table}")).is_empty
    with pytest.raises(UsageError, match="is no table"):
        load_settings(config(tmp_path / "other", "service = 1\n"))


# -- units -------------------------------------------------------------------------------------------

ODD = ["/opt/my tools/100%/overlaysync"]


@needs_systemd
@pytest.mark.parametrize("program", [[sys.executable, "-m", "overlaysync"], ODD])
def test_systemd_accepts_both_units(tmp_path: Path, program: list[str]) -> None:
    for flags, text in (
        (("--user",), user_unit(program, {"OVERLAYSYNC_HOME": "/srv/a b%c"})),
        ((), system_unit(program)),
    ):
        (tmp_path / NAME).write_text(text)
        judged = analyze("verify", *flags, str(tmp_path / NAME), XDG_RUNTIME_DIR=str(tmp_path))
        missing = [f"Command {program[0]} is not executable: No such file or directory"] * (program is ODD)
        words = [line.split(": ", 1)[1] for line in judged.stderr.splitlines() if NAME in line]
        assert words == missing, judged.stderr


@pytest.mark.parametrize("odd", ["x\rExecStartPre=/bin/evil\r#", "\x1b[31m", "\x7f", "caf\udce9", "a\0b"])
def test_what_systemd_cannot_read_is_refused(odd: str) -> None:
    with pytest.raises(UsageError, match="systemd cannot be given"):
        user_unit(["/bin/true"], {"OVERLAYSYNC_HOME": f"/tmp/{odd}"})
    with pytest.raises(UsageError, match="systemd cannot be given"):
        system_unit([f"/tmp/{odd}"])


@needs_systemd
def test_the_system_unit_is_well_enclosed(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(system_unit(["/usr/bin/overlaysync"]))
    judged = analyze("security", "--offline=true", str(tmp_path / NAME))
    found = re.search(r"exposure level for \S+: ([\d.]+)", judged.stdout)
    assert found and float(found[1]) <= 2.0, judged.stdout + judged.stderr


def test_the_units_of_users_need_no_namespace() -> None:
    made = user_unit(["/usr/bin/overlaysync"], {})
    assert not re.findall(
        r"^(?:Protect|Private|ReadOnly|ReadWrite|Inaccessible|Dynamic)\w*=", made, re.MULTILINE
    )


# -- installation ------------------------------------------------------------------------------------


def test_what_is_written_is_said_and_can_be_undone(tmp_path: Path) -> None:
    (tmp_path / "masters").mkdir()
    unit = tmp_path / ".config/systemd/user" / NAME
    settings = tmp_path / ".config/overlaysync/config.toml"

    done = service(tmp_path, "install", "masters", "--no-start")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(str(path) in done.stdout for path in (unit, settings))
    assert "to undo this: overlaysync service remove" in done.stdout
    assert tomllib.loads(settings.read_text()) == {"service": {"share": [str(tmp_path / "masters")]}}
    assert unit.stat().st_mode & 0o777 == 0o644

    again = service(tmp_path, "install", "masters", "--no-start")
    assert again.returncode == 0 and f"as it was: {unit}" in again.stdout
    other = service(tmp_path, "install", ".", "--no-start")
    assert other.returncode == 9 and str(settings) in other.stderr

    gone = service(tmp_path, "remove")
    assert gone.returncode == 0 and not unit.exists() and settings.exists()
    assert "not installed" in service(tmp_path, "remove").stdout


def test_other_settings_stay(tmp_path: Path) -> None:
    settings = tmp_path / ".config/overlaysync/config.toml"
    settings.parent.mkdir(parents=True, mode=0o700)
    settings.write_text('# mine\n[fetch]\nmasters = "~/masters"')
    assert service(tmp_path, "install", ".", "--no-start").returncode == 0
    assert settings.read_text().startswith('# mine\n[fetch]\nmasters = "~/masters"\n\n[service]\n')


@pytest.mark.parametrize(
    "name", ["\U0001f427", "a\nb", "a\rb", 'q"q', "back\\slash", "\x7f", "\x1b[m", "\u2028"]
)
def test_a_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
    settings = tmp_path / "config" / "config.toml"
    settings.parent.mkdir()
    add_settings(settings, {"share": [f"/srv/{name}"]})
    assert load_settings({"OVERLAYSYNC_HOME": str(tmp_path)}).share == (f"/srv/{name}",)


def test_a_name_that_is_not_utf_8_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    done = service(tmp_path, "install", "--no-start", str(odd))
    assert done.returncode == 2 and "is not UTF-8" in done.stderr
    assert not (tmp_path / ".config/overlaysync/config.toml").exists()
    assert not (tmp_path / ".config/systemd").exists()


@pytest.mark.parametrize(
    "link", ["var/lib/overlaysync/.config", "etc/overlaysync", "etc/overlaysync/config.toml"]
)
def test_root_follows_no_link_that_the_account_of_the_service_has_made(tmp_path: Path, link: str) -> None:
    """The account may write to its home and its settings, and gets what root gives it there."""
    victim, site = tmp_path / "victim", system_site(tmp_path)
    install_site(site, {"share": ["/srv/images"]})
    made = tmp_path / link
    made.rename(victim)
    made.symlink_to(victim)
    victim.chmod(0o700)
    with pytest.raises(OverlaysyncError):
        install_site(site, {"share": ["/srv/images"]})
    assert victim.stat().st_mode & 0o777 == 0o700


def test_a_service_whose_settings_cannot_be_used_is_not_installed(tmp_path: Path) -> None:
    settings = tmp_path / ".config" / "overlaysync" / "config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text('[service]\nshare = "/srv"\n')
    done = service(tmp_path, "install", "--no-start")
    assert done.returncode == 2 and "'share' in [service]" in done.stderr
    assert not (tmp_path / ".config" / "systemd").exists()


def test_what_is_not_there_is_not_installed(tmp_path: Path) -> None:
    done = service(tmp_path, "install", "masters", "--no-start")
    assert done.returncode == 3 and f"mkdir -p {tmp_path}/masters" in done.stderr
    assert list(tmp_path.rglob("config.toml")) == []


def test_an_installation_without_anything_to_do_is_refused(tmp_path: Path) -> None:
    done = service(tmp_path, "install")
    assert done.returncode == 2 and "try: overlaysync service install PATH" in done.stderr
    assert not (tmp_path / ".config").exists()


def test_a_team_that_this_machine_is_not_in_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    done = service(tmp_path, "install", "--keep", "red", "--no-start")
    assert done.returncode == 2 and "overlaysync team join red" in done.stderr
    assert not (tmp_path / ".config/systemd").exists()


def test_the_service_of_a_machine_has_its_settings_in_etc(tmp_path: Path) -> None:
    site = system_site(tmp_path)
    install_site(site, {"share": ["/srv/images"]})
    assert (tmp_path / "etc/systemd/system" / NAME).read_text() == site.text
    assert "share" in (tmp_path / "etc/overlaysync/config.toml").read_text()
    home = {"HOME": str(tmp_path / "var/lib/overlaysync")}
    assert (Path(home["HOME"]) / ".config/overlaysync").resolve() == tmp_path / "etc/overlaysync"
    assert site.home.config == Path(home["HOME"], ".config/overlaysync")


def test_a_unit_that_a_package_has_installed_is_not_written_again(tmp_path: Path) -> None:
    site = system_site(tmp_path)
    assert site.shipped is not None
    site.shipped.parent.mkdir(parents=True)
    site.shipped.write_text(site.text)
    assert install_site(site, {"share": ["/srv/images"]}).unit == site.shipped
    assert not site.unit.exists()


def test_without_a_running_systemd_it_is_said_what_to_type(tmp_path: Path) -> None:
    if shutil.which("systemctl") is None:
        done = service(tmp_path, "install", ".")
        assert "systemctl is not installed" in done.stderr
        return
    done = service(tmp_path, "install", ".")
    assert done.returncode == 1 and "until systemd runs here: overlaysync service run" in done.stderr
    assert "installed; systemd did not answer" in service(tmp_path, "status").stdout


# -- what systemd is told ----------------------------------------------------------------------------


def test_systemd_hears_what_it_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.settimeout(10)
        heard.bind(str(tmp_path / "notify"))
        assert notify({"NOTIFY_SOCKET": str(tmp_path / "notify")}, READY, "STATUS=well")
        assert heard.recv(4096) == b"READY=1\nSTATUS=well"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.settimeout(10)
        heard.bind(f"\0overlaysync-test-{os.getpid()}")
        assert notify({"NOTIFY_SOCKET": f"@overlaysync-test-{os.getpid()}"}, READY)
        assert heard.recv(4096) == b"READY=1"


def test_without_systemd_nothing_is_told(tmp_path: Path) -> None:
    assert not notify({}, READY)
    assert not notify({"NOTIFY_SOCKET": str(tmp_path / "nothing")}, READY)
    assert not notify({"NOTIFY_SOCKET": "vsock:2:1"}, READY)


def test_the_watchdog_is_the_one_of_this_process() -> None:
    assert watchdog_s({}) is None
    assert watchdog_s({"WATCHDOG_USEC": "3000000"}) == 3.0
    assert watchdog_s({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}) is None
    assert watchdog_s({"WATCHDOG_USEC": "soon"}) is None


def test_the_journal_is_known_by_its_stream(tmp_path: Path) -> None:
    with open(tmp_path / "log", "wb") as log:
        found = os.fstat(log.fileno())
        stream = f"{found.st_dev}:{found.st_ino}"
        assert goes_to_journal(log.fileno(), {"JOURNAL_STREAM": stream})
        assert not goes_to_journal(log.fileno(), {"JOURNAL_STREAM": f"{found.st_dev}:1"})
        for other in ({}, {"JOURNAL_STREAM": "x"}, {"JOURNAL_STREAM": "1:2:3"}):
            assert not goes_to_journal(log.fileno(), other)


def test_each_line_has_its_level() -> None:
    assert leveled("one\n  two", Level.ERROR) == "<3>one\n<3>  two"
    assert level_of("No longer shared: x (deleted)") is Level.WARNING
    assert level_of("Now announced on eth0") is Level.INFO
