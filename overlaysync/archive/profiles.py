"""Keys for S3 from the files that its other programs use: ``~/.aws/credentials`` and ``~/.aws/config``.

Keys in the environment come first, unless a URL names a profile. Profiles with static keys only: those that
run a program or sign in with a browser are left out. Nothing that is read here is stored or shown.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from overlaysync.errors import NotAllowedError, NotFoundError
from overlaysync.model.names import printable

_DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Profile:
    """What a profile says.

    Attributes:
        keys: access key id, secret access key and session token ("" for none); None where it has no keys.
        region, endpoint: of the store; "" where it does not say.
    """

    keys: tuple[str, str, str] | None = field(repr=False, default=None)
    region: str = ""
    endpoint: str = ""


def read_profile(env: Mapping[str, str], named: str = "") -> Profile:
    """Return the profile that is to be used: the one ``named``, or what the environment says.

    Raises:
        NotFoundError: there is no such profile.
        NotAllowedError: it has no keys that can be used, or a file cannot be read.
    """
    if not named and env.get("AWS_ACCESS_KEY_ID"):
        return Profile()
    wanted = named or env.get("AWS_PROFILE", "")
    name = wanted or _DEFAULT
    directory = Path(env.get("HOME") or os.path.expanduser("~")) / ".aws"
    credentials = Path(env.get("AWS_SHARED_CREDENTIALS_FILE") or directory / "credentials")
    config = Path(env.get("AWS_CONFIG_FILE") or directory / "config")
    section = name if name == _DEFAULT else f"profile {name}"
    found = _section(config, section) | _section(credentials, name)
    if wanted and not found:
        raise NotFoundError(
            f"There is no profile '{printable(name)}' in {credentials} or {config}",
            hint="aws configure list-profiles",
        )
    keys = _keys(found)
    if wanted and keys is None:
        raise NotAllowedError(
            f"The profile '{printable(name)}' has no key that can be used",
            why="it has no aws_access_key_id and aws_secret_access_key",
            hint=f"write both into {credentials} below [{printable(name)}]",
        )
    return Profile(keys, found.get("region", ""), found.get("endpoint_url", ""))


def _keys(found: Mapping[str, str]) -> tuple[str, str, str] | None:
    id, secret = found.get("aws_access_key_id", ""), found.get("aws_secret_access_key", "")
    return (id, secret, found.get("aws_session_token", "")) if id and secret else None


def _section(path: Path, name: str) -> dict[str, str]:
    """Return what a section of a file says; nothing where there is none."""
    parser = configparser.RawConfigParser(default_section="", strict=False)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        # What the parser says would repeat the line, which may be a secret.
        why = error.strerror if isinstance(error, OSError) else "it is not in the form of such files"
        raise NotAllowedError(f"Cannot read {path}", why=why or "", hint=f"ls -l '{path}'") from None
    return dict(parser.items(name)) if parser.has_section(name) else {}
