"""Turn what Asterisk says about failed logins into kernel drops, and say why for each of them."""

__version__ = "0.1.0"
