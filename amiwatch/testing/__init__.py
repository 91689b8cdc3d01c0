"""The test kit that ships with amiwatch: a fake Asterisk, a fake firewall, builders, a clock."""
