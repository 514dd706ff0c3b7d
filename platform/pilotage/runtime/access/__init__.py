"""Who may ask the service for what, and how often: API keys, roles, rate limits. No HTTP server, no models."""
