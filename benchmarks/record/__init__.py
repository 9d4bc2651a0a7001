"""Checksums of what the package computes, which show that a restructuring changes nothing.

``cases`` is the battery, with a room per module. ``api`` holds every name of AnalogTorch that the
battery uses: edit that file alone where a name changes. ``digest`` turns results into entries and
compares two records.
"""
