"""Tests of faults on a schedule: what is decided, and what is found out of what nodes said."""
