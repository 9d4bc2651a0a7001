"""The numbers that all forms of the analog product share: plain torch, C and Triton kernels.

They are written only here. ``native/build.py`` makes a C header of them, also without torch: this
file imports nothing.
"""

# The noise generator: what each is for, and its sources, stand in ops/generator.py. A change raises
# its VERSION.
GOLDEN = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio, odd: the increment of splitmix64."""
MIX64_1, MIX64_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""Multipliers of its finaliser, after shifts by 30 and 27."""
MIX32_1, MIX32_2 = 0x21F0AAAD, 0xD35A2D97
"""Multipliers of the 32-bit rounds, after shifts by 16 and 15."""
LOG_OFFSET = 0.35
"""``t = sqrt(LOG_OFFSET - ln(2 tail)) * SLOPE + OFFSET`` runs over [-1, 1]."""
SLOPE, OFFSET = 0.48134261825033337, -1.2847661332575033
INVERSE = (
    3.2527800132026092,
    3.151566082644621,
    -0.09560426252296807,
    0.0399969977611134,
    -0.012258648700909227,
    -0.00020092541953523925,
    0.0033763807057692365,
    -0.008338730114421817,
    0.015962522114434146,
    -0.0070280356173169235,
    -0.007485803035211494,
    -0.0012035649516857097,
    0.01220873053820021,
    -0.0058131859330376,
)
"""The normal's magnitude as a polynomial of ``t``, constant first."""

# Guards against division by zero.
LEAST_BOUND = 1e-30
"""The smallest range of a converter: an input or a block of zeros gives zeros, and not 0 / 0."""
LEAST_SCALE = 2.0**-126
"""The smallest weight scale in float32, its smallest normal number, for the same reason."""


def c_header() -> str:
    """Return the numbers as macros of C; fractions are ``float``."""
    lines = ["/* Made of ops/constants.py by native/build.py. */"]
    for name, value in globals().items():
        if name.isupper():
            numbers = value if isinstance(value, tuple) else (value,)
            lines.append(f"#define {name} {', '.join(map(_literal, numbers))}")
    return "\n".join(lines) + "\n"


def _literal(value: float) -> str:
    if isinstance(value, int):
        return f"{value:#x}u" + "ll" * (value >= 2**32)
    return f"{value!r}f"
