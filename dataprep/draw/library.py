"""The import of albumentations, without torch and without a call to the package index."""

import os
import sys
from functools import cache
from typing import Any

from intarsia.errors import UserError


@cache
def import_albumentations() -> Any:
    """The module `albumentations`.

    Its import would also import torch, if that is installed, which Ray's workers must not pay for: torch is
    hidden meanwhile. And it would ask the package index for a newer version.

    Raises:
        UserError: if it is not installed.
    """
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` an ImportError
    try:
        import albumentations
    except ModuleNotFoundError as error:
        raise UserError(
            f"recipes need {error.name}, which is not installed; pip install 'intarsia[dataprep]'"
        ) from None
    finally:
        if hidden:
            del sys.modules["torch"]
    return albumentations
