"""The ``pilotage`` command: a thin shell over the engine."""
