"""What the serving benchmarks share: a home with a real champion, a load generator, and the servers to compare with."""
