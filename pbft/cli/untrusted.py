"""What a replica tells of itself, in JSON. Nobody else vouches for it, and a corrupt one may say
anything: so it is checked for type and size, and made fit for a terminal, before it is used.
"""

import json
from typing import Any

from pbft.errors import printable

NUMBER_MAX = 2**53
"""Beyond, a number is nonsense and not a view, a sequence or a time."""
TEXT_MAX = 80
"""Characters kept of a text that a replica tells."""
LIST_MAX = 32


def parse_json(body: bytes) -> Any:
    """The document in a body. Raises ValueError if there is none, or one that is nested so deeply
    that nobody means it."""
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def is_count(value: object) -> bool:
    """Whether it is a whole number from 0 to NUMBER_MAX."""
    return type(value) is int and 0 <= value <= NUMBER_MAX


def number_of(document: dict[str, Any], name: str) -> int | None:
    """The count of this name; None if there is none."""
    value = document.get(name)
    return value if isinstance(value, int) and is_count(value) else None


def text_of(document: dict[str, Any], name: str) -> str | None:
    """The text of this name, printable, short and in one line; None if there is none."""
    value = document.get(name)
    return printable(value[:TEXT_MAX]) if isinstance(value, str) else None


def items_of(document: dict[str, Any], name: str) -> list[Any] | None:
    """The first items of the list of this name; None if there is none."""
    value = document.get(name)
    return value[:LIST_MAX] if isinstance(value, list) else None


def texts_of(document: dict[str, Any], name: str) -> list[str] | None:
    """The texts, each as by `text_of`, among the first items of a list; None if there is none."""
    found = items_of(document, name)
    if found is None:
        return None
    return [printable(item[:TEXT_MAX]) for item in found if isinstance(item, str)]
