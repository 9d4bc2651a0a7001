from pathlib import Path

import pytest

from analogtorch.speech.transcription.whisper import Whisper, load_whisper
from tests.speech.transcription import tiny


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a tiny Whisper."""
    return tiny.write(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="session")
def whisper(folder: Path) -> Whisper:
    """A tiny Whisper for windows of a second."""
    return load_whisper(folder, seconds=1)
