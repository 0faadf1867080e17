"""Reference results in; the README's tables out, between two comments that mark their place. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from mfubench.report import to_markdown
from mfubench.report.reference.submission import Submission

BEGIN = "<!-- reference results: python -m mfubench.reference --readme writes what follows -->"
END = "<!-- end of the reference results -->"
NONE_YET = "None yet: no result of real hardware has been handed in. `outputs/reference/README.md` says how."


def tables(checked: Sequence[Submission]) -> str:
    """A heading, the command and the table of each submission, in Markdown."""
    parts = [
        f"### {each.name}\n\n```\n{each.command}\n```\n\n{to_markdown.markdown_text(each.results)}"
        for each in checked
        if each.results
    ]
    return "\n".join(parts) or f"{NONE_YET}\n"


def with_tables(readme: str, checked: Sequence[Submission]) -> str:
    """Return the README with the right tables. Raises ValueError unless it has the two comments, in order, once each."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"the README needs a line {BEGIN} and after it a line {END}, once each")
    return f"{before}{BEGIN}\n{tables(checked)}{END}{after}"
