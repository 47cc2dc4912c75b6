"""What typer's completion scripts lack."""

from __future__ import annotations

from typer import _completion_shared as typers

_FIRST_TAB = """
# zsh runs this file at the first Tab, which is to be answered as well.
if [[ "$funcstack[1]" == _%(prog_name)s ]]; then
  %(complete_func)s "$@"
fi
"""


def answer_first_tab() -> None:
    """Let the script that is installed for zsh complete at the first Tab; typer's does at the second."""
    script = typers.COMPLETION_SCRIPT_ZSH
    typers._completion_scripts["zsh"] = script + _FIRST_TAB
