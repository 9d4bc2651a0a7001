"""Utterances of LibriSpeech, for those who have it: nothing is downloaded.

Source: V. Panayotov et al., "Librispeech: an ASR corpus based on public domain audio books", ICASSP
2015; CC BY 4.0.
"""

from pathlib import Path

import torch
from torch.utils.data import Dataset

from analogtorch.files import expanded
from analogtorch.speech.audio import read_recording
from analogtorch.speech.recognition.utterances import Utterance
from analogtorch.values import checks

PARTS = (
    "train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean",
    "test-other",
)  # fmt: skip
"""The parts of the corpus; no speaker is in two of them."""


class LibriSpeech(Dataset[Utterance]):
    """The utterances of one part of LibriSpeech, in lower case, with ``LETTERS`` as tokens.

    Args:
        root: folder with LibriSpeech/<part>/<speaker>/<chapter>/, as torchaudio unpacks it; ``~``
            and ``${NAME}`` are replaced as in a shell.
        part: one of ``PARTS``.

    Raises:
        ValueError: there is no such part, or its folder holds no utterance.
        FileNotFoundError: the corpus or its part is missing.
    """

    def __init__(self, root: str | Path, part: str = "train-clean-100") -> None:
        from torchaudio.datasets import LIBRISPEECH  # late, as torchaudio takes seconds to import

        checks.choice("LibriSpeech: part", part, PARTS)
        folder = expanded(str(checks.path("root", root)))
        if not (folder / "LibriSpeech" / part).is_dir():
            raise FileNotFoundError(
                f"root={str(root)!r} holds no LibriSpeech/{part}. Point root at the folder that "
                f"does; {part}.tar.gz is at https://www.openslr.org/12"
            )
        self._folder = folder / "LibriSpeech"
        self._corpus = LIBRISPEECH(folder, url=part)
        if not len(self._corpus):
            raise ValueError(f"{self._folder / part} holds no <speaker>/<chapter>/*.flac")

    def __len__(self) -> int:
        return len(self._corpus)

    def __getitem__(self, index: int) -> Utterance:
        """Return an utterance. It is not known when its words are said.

        Raises:
            IndexError: there is none of that number.
            ValueError: the recording cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"utterance {index} of {len(self)}")
        path, _, text, speaker, _, _ = self._corpus.get_metadata(index)
        return Utterance(
            samples=read_recording(self._folder / path),
            said=text.lower(),
            spans=torch.empty(0, 2, dtype=torch.float32, device="cpu"),
            speakers=(str(speaker),),
        )
