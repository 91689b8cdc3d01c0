"""The settings: read once, checked once, frozen."""

from amiwatch.config.layers import load
from amiwatch.config.settings import AmiSettings, RuleSettings, Settings
from amiwatch.config.texts import Allowlist, duration_text, parse_duration

__all__ = ["Allowlist", "AmiSettings", "RuleSettings", "Settings", "duration_text", "load", "parse_duration"]
