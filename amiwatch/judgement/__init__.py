"""Decide who is an offender: values, attempts, rules, trust, the ban ladder. Pure: no I/O, no clock."""
