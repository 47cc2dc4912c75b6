# shellcheck shell=sh disable=SC2154
# The virtual environment of this repository: sourced by the scripts beside it, not run.
#
# Set before: $root, the repository (absolute). Given: use_venv [EXTRA], which returns at once when $root/.venv holds
# what pyproject.toml and scripts/constraints.txt ask for, and otherwise installs it. Nothing here writes to stdout.
# The test environment is pinned by hash as well: scripts/requirements-test.txt, written by scripts/lock.
#
# Rules: one installer at a time (flock on .venv.lock); a stamp is written last, so an install that was cut short is
# seen (.venv/.incomplete) and made again from nothing; the key in the stamp also names this place and the
# interpreter, so that a moved tree or a new Python rebuilds it.

venv=$root/.venv
# Where this is set, every process that is started compiles all of the program again.
unset PYTHONDONTWRITEBYTECODE

say() { printf 'overlaysync: %s\n' "$*" >&2; }

give_up() {
    for line in "$@"; do say "$line"; done
    exit 1
}

# What the environment has to match, as one word.
venv_key() {
    {
        printf '%s\n' "$root"
        readlink -f -- "$venv/bin/python"
        cat -- "$root/pyproject.toml" "$root/scripts/constraints.txt" "$root/scripts/requirements-test.txt"
    } | sha256sum
}

venv_is_fresh() {
    [ -x "$venv/bin/python" ] && [ -r "$venv/.stamp-$1" ] && [ ! -e "$venv/.incomplete" ] || return 1
    IFS= read -r stamped <"$venv/.stamp-$1" || return 1
    [ "$stamped" = "$(venv_key)" ]
}

use_venv() {
    venv_is_fresh "${1:-run}" && return 0
    for place in "$root" "$venv"; do
        [ ! -e "$place" ] || [ -w "$place" ] || give_up \
            "has to install its parts in $venv, but you may not write to $place." \
            "Let its owner run $root/scripts/overlaysync once, or use a copy of your own."
    done
    (: >>"$root/.venv.lock") 2>/dev/null || give_up "cannot write $root/.venv.lock: it belongs to somebody else. Remove it."
    exec 9>>"$root/.venv.lock"
    if command -v flock >/dev/null 2>&1 && ! flock -n 9; then
        say "waiting for another process that is installing into $venv ..."
        flock 9
    fi
    venv_is_fresh "${1:-run}" || install_venv "${1:-run}"
    exec 9>&-
}

install_venv() {
    what=$1
    if [ -e "$venv" ] && venv_can_stay; then
        say "bringing $venv up to date ($what) ..."
    else
        find_python
        say "installing what it needs into $venv, which takes about a minute ..."
        rm -rf -- "$venv"
        mkdir -- "$venv" && : >"$venv/.incomplete"
        "$python" -m venv "$venv" >"$venv/install.log" 2>&1 || install_failed "the virtual environment could not be made"
    fi
    : >"$venv/.incomplete"
    pip_install "$what" >"$venv/install.log" 2>&1 </dev/null ||
        install_failed "pip could not install overlaysync's parts"
    printf '%s\n' "$root" >"$venv/.made-for"
    venv_key >"$venv/.stamp-run"
    [ "$what" = run ] || venv_key >"$venv/.stamp-$what"
    rm -f -- "$venv/.incomplete"
}

# The build backend is pinned as well: older pips read PIP_CONSTRAINT for it, newer ones PIP_BUILD_CONSTRAINT. Both split
# at spaces, so the path is a relative one; the subshell keeps the caller's directory.
pip_install() (
    cd -- "$root" || exit 1
    if [ "$1" = test ] && has_hashed_wheels; then
        pip_install_hashed
        exit
    fi
    target=.
    [ "$1" = run ] || target=".[$1]"
    PIP_CONSTRAINT=scripts/constraints.txt PIP_BUILD_CONSTRAINT=scripts/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
        "$venv/bin/python" -m pip install --no-input -e "$target"
)

# Whether requirements-test.txt has wheels for this Python; elsewhere constraints.txt alone says what is installed.
has_hashed_wheels() {
    "$venv/bin/python" -c 'if True:
        import platform, sys
        known = platform.machine() in ("x86_64", "aarch64") and platform.libc_ver()[0] == "glibc"
        sys.exit(not known or sys.implementation.name != "cpython" or not (3, 11) <= sys.version_info[:2] <= (3, 14))'
}

# The build backend comes from that file too, so nothing is fetched for the project itself.
pip_install_hashed() (
    export PIP_CONSTRAINT='' PIP_BUILD_CONSTRAINT='' PIP_DISABLE_PIP_VERSION_CHECK=1
    "$venv/bin/python" -m pip install --no-input --require-hashes --only-binary :all: -r scripts/requirements-test.txt &&
        "$venv/bin/python" -m pip install --no-input --no-deps --no-build-isolation -e .
)

# An environment can be brought up to date where it is if it is whole, was made for this place, and its Python works.
venv_can_stay() {
    [ ! -e "$venv/.incomplete" ] && [ -r "$venv/.made-for" ] || return 1
    IFS= read -r made_for <"$venv/.made-for" && [ "$made_for" = "$root" ] &&
        "$venv/bin/python" -c 'import pip' >/dev/null 2>&1
}

# pip's log has a line for each attempt, and may have a traceback: of that, its errors are shown.
install_failed() {
    if ! grep '^ERROR: ' -- "$venv/install.log" | grep -v '^ERROR: Exception:' | tail -n 3 | cut -c 1-200 | grep . >&2; then
        grep -v '^ ' -- "$venv/install.log" | grep -v '^Traceback' | tail -n 3 | cut -c 1-200 >&2
    fi
    why="Most often the network or the disk is the reason (df -h '$root')."
    if grep -q -E 'NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|NameResolutionError|SSLError' -- "$venv/install.log"; then
        why="The package index cannot be reached. Connect this machine, or set PIP_INDEX_URL to an index that it reaches."
    fi
    give_up "$1; all that it said is in $venv/install.log." "$why Then type the same command again."
}

# Sets $python: the first one that is new enough and can make virtual environments.
find_python() {
    look_for_python && return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing $wanted with apt ..."
        # shellcheck disable=SC2086 # several words
        apt_install $wanted >/dev/null 2>&1 || :
        look_for_python && return 0
    fi
    how="Install it with your system's package manager."
    command -v apt-get >/dev/null 2>&1 && how="Type: sudo apt install $wanted"
    if [ -n "$lacking" ]; then
        give_up "cannot make its virtual environment: $lacking is here, but without its venv and ensurepip modules." "$how"
    fi
    give_up "needs Python 3.11 or newer; found: $old." "$how"
}

look_for_python() {
    old=none lacking='' wanted='python3 python3-venv'
    for python in python3 python3.14 python3.13 python3.12 python3.11; do
        command -v "$python" >/dev/null 2>&1 || continue
        if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            [ "$old" != none ] || old=$("$python" --version 2>&1 || :)
            wanted='python3.11 python3.11-venv'
        elif "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            return 0
        elif [ -z "$lacking" ]; then
            lacking=$python wanted=$python-venv
        fi
    done
    return 1
}

apt_install() {
    sudo=
    [ "$(id -u)" = 0 ] || sudo='sudo -n'
    $sudo apt-get -qq -o DPkg::Lock::Timeout=300 update
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@"
}
