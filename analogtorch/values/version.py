"""The version of AnalogTorch."""

RELEASE = "0.1.0"
