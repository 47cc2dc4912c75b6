"""What typer's completion scripts lack."""

from __future__ import annotations

from typer import _completion_classes as classes
from typer import _completion_shared as typers

_FIRST_TAB = """
# zsh runs this file at the first Tab, which is to be answered as well.
if [[ "$funcstack[1]" == _%(prog_name)s ]]; then
  %(complete_func)s "$@"
fi
"""

_BASH = """
%(complete_func)s() {
    local IFS=$'\\n' line=${COMP_LINE:0:COMP_POINT} word rest mark
    COMPREPLY=( $( env %(autocomplete_var)s=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args \\
                   _TYPER_COMPLETE_ARGS="$line" "$1" | cut -f 1 ) )
    # Where ':' and '@' end a word, bash completes only what follows them in NAME:VERSION or NAME@PEER.
    word=${line##*[[:space:]]}
    rest=$word
    for mark in : @; do
        if [[ $COMP_WORDBREAKS == *$mark* ]]; then rest=${rest##*$mark}; fi
    done
    COMPREPLY=( "${COMPREPLY[@]#"${word:0:${#word}-${#rest}}"}" )
}

complete -o default -F %(complete_func)s %(prog_name)s
"""
"""Asks as fish does, with the line as it was typed; what describes a candidate is cut off."""


def mend() -> None:
    """Let typer's completion answer as it should.

    At zsh's first Tab as well as at the second; in bash also within ``NAME:VERSION@PEER``; and with
    descriptions of one line, which typer wraps like paragraphs.
    """
    script = typers.COMPLETION_SCRIPT_ZSH
    typers._completion_scripts["zsh"] = script + _FIRST_TAB
    typers._completion_scripts["bash"] = _BASH
    classes.ZshComplete.source_template = script + _FIRST_TAB
    classes.BashComplete.source_template = _BASH
    classes._sanitize_help_text = lambda text: text


def script(shell: str) -> str:
    """Return the completion script for a shell."""
    mend()
    return typers.get_completion_script(
        prog_name="overlaysync", complete_var="_OVERLAYSYNC_COMPLETE", shell=shell
    )
