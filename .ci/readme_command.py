"""Prints a command of README.md: the code block that follows `<!-- NAME command -->`."""

import sys
from pathlib import Path


def readme_command(name: str) -> str:
    """The block's text; raises ValueError where README.md has none of that name."""
    text = (Path(__file__).parents[1] / "README.md").read_text()
    _, marker, after = text.partition(f"<!-- {name} command -->\n```\n")
    command, fence, _ = after.partition("\n```\n")
    if not (marker and fence and command.strip()):
        raise ValueError(f"README.md has no {name} command")
    return command


if __name__ == "__main__":
    print(readme_command(sys.argv[1]))
