"""Jobs and schedules: which assets run together, when, and under what cause."""
