"""Pretrained nets on chips over a year: mapped, calibrated and adapted without labels."""
