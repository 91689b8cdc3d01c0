"""The edge to Asterisk: bytes in, security events out."""
