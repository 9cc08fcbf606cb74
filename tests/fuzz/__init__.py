"""What is fuzzed, and a small corpus for each target: see scripts/fuzz."""
