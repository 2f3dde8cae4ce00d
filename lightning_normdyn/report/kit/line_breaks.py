"""Where a browser may break a line: within long names at their joints, never within an option or an interval."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

_JOINT = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=\w[/.=(,])(?=[^\W\d])|(?<=[a-z0-9]_)(?=\w)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*\w=?")
_INTERVAL = re.compile(r"[(\[][−+\-\d][−+\-\d.,%e to]*[)\]]")


def joined_name(text: str) -> Markup:
    """A name of a class, a path or a quantity, to be broken where its words join.

    Args:
        text: plain, or markup that stays as it is.

    Example:
        >>> joined_name("KnowledgeGraph: norm_cv <")
        Markup('Knowledge<wbr>Graph: norm_<wbr>cv &lt;')
    """
    if isinstance(text, Markup):
        return text
    return Markup("<wbr>").join(_JOINT.split(text))


def prose(text: str) -> Markup:
    """Sentences or a command, whose options keep their dashes.

    Args:
        text: plain, or markup that stays as it is.

    Example:
        >>> prose("pass --sample 3")
        Markup('pass <span class="option">--sample</span> 3')
    """
    return _marked(_OPTION, "option", text)


def with_intervals(text: str) -> Markup:
    """A table's cell, of which a wide screen breaks no bracket with numbers.

    Args:
        text: plain, or markup that stays as it is.

    Example:
        >>> with_intervals("0.49 (0.42 to 0.56) <")
        Markup('0.49 <span class="interval">(0.42 to 0.56)</span> &lt;')
    """
    return _marked(_INTERVAL, "interval", text)


def _marked(pattern: re.Pattern[str], style: str, text: str) -> Markup:
    if isinstance(text, Markup):
        return text
    return Markup(pattern.sub(lambda match: f'<span class="{style}">{match.group()}</span>', str(escape(text))))
