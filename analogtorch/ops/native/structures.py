"""The structures of linear.c and conv.c, field by field."""

import ctypes

_P, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class WeightNoise(ctypes.Structure):
    """``weight_noise`` of weights.h."""

    _fields_ = (
        *(("key", _P), ("std", _F), ("shaped", _I), ("base", _F), ("step", _F), ("c", _F * 4)),
        *(("dip", _F), ("rate", _F)),
        *(("pieces", _I), ("first_output", _I), ("first_row", _I)),
    )


class Adc(ctypes.Structure):
    """``adc`` of converters.h."""

    _fields_ = (
        *(("levels", _F), ("bound", _F), ("std", _F), ("bounds", _P), ("unit_levels", _F), ("ranges", _P)),
        ("keys", _P),
        *(("first_output", _I), ("total_outputs", _I)),
    )


_TENSORS = tuple(
    (name, _P)
    for name in (
        *("x", "w", "range", "bias", "gain", "g", "scale", "y", "gx", "gw", "g_bias", "mask", "saturated", "g_range"),
        *("samples", "bounds", "columns"),
    )
)
_COMMON = (("blocks", _I), ("n_columns", _I), ("range_by", _I), ("find_scale", _I))
_REST = (("input_levels", _F), ("noise", WeightNoise), ("read", Adc))


class Linear(ctypes.Structure):
    """``linear`` of linear.c."""

    _fields_ = (*_TENSORS, ("vectors", _I), ("rows", _I), ("outputs", _I), *_COMMON, *_REST)


class Convolution(ctypes.Structure):
    """``convolution`` of conv.c."""

    _fields_ = (
        *_TENSORS,
        *((name, _I) for name in ("n", "groups", "channels", "outputs")),
        *_COMMON,
        *((name, _I * 3) for name in ("in_", "out", "kernel", "stride", "padding", "dilation")),
        *_REST,
    )


Matrix = Linear | Convolution
