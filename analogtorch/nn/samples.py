"""Which dimension of a layer's inputs counts the samples, by which noise is numbered."""


class SamplesFirst:
    """Mixin of the layers that know by themselves, of which ``sequence_first`` cannot be set."""

    layer_name: str

    @property
    def sequence_first(self) -> bool:
        """False: samples are in dimension 0, or where the layer's ``batch_first`` puts them.

        Raises:
            ValueError: it is set to True.
        """
        return False

    @sequence_first.setter
    def sequence_first(self, value: bool) -> None:
        if value:
            raise ValueError(
                f"layer {self.layer_name or '(root)'!r}: sequence_first is for AnalogLinear and "
                f"AnalogEmbedding, and would change nothing in {type(self).__name__}; leave it out"
            )
