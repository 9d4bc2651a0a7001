"""The record: checksums of what the package computes, so that a change of its structure can be
shown to change nothing.

``cases`` is the battery, a room per module. ``api`` holds every name of AnalogTorch that the
battery uses: it is the one file to edit where a name changes. ``digest`` turns results into entries
and compares two records.
"""
