"""One tiny model and its folder for all sampling tests."""

from pathlib import Path

import pytest

from intarsia.model import EditModel
from intarsia.weights import save_model
from tests.sampling.tiny import tiny_model


@pytest.fixture(scope="session")
def model() -> EditModel:
    return tiny_model(2)


@pytest.fixture(scope="session")
def model_folder(model: EditModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sampling") / "model"
    save_model(model, folder)
    return folder
