"""What the JSON endpoints take from a body: an object, and pictures in base64."""

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intarsia.errors import UserError

if TYPE_CHECKING:
    from sampling.web.service import Service


def object_of(body: bytes, what: str) -> dict[str, Any]:
    """The JSON object of a body; `what`: what it should have, for the error.

    Raises:
        UserError: for anything else.
    """
    try:
        content = json.loads(body)
        _check_text(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the body is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"the body must be an object with {what}")
    return content


def _check_text(value: Any) -> None:
    """Raise ValueError for a half of a surrogate pair, which JSON can write and UTF-8 cannot."""
    if isinstance(value, str):
        if not value.isascii():
            value.encode()
    elif isinstance(value, dict):
        _check_text([*value, *value.values()])
    elif isinstance(value, list):
        for one in value:
            _check_text(one)


def kept(service: "Service", pictures: Mapping[str, str]) -> dict[str, Path]:
    """The files of a body's pictures, by their fields' names.

    Raises:
        UserError: for what is not base64, and as `Service.keep`.
    """
    kinds = {name: name.replace("_", " ") for name in pictures}
    return {name: service.keep(decoded(text, kinds[name]), kinds[name]) for name, text in pictures.items()}


def decoded(text: str, kind: str) -> bytes:
    """The bytes of a picture in base64, also of a data: URL; `kind`: its name, for the error.

    Raises:
        UserError: if it is not base64.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"the {kind} is not base64; send the file's bytes encoded so") from None
