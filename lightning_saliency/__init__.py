"""Watch where a vision model looks while it trains."""

__version__ = "0.1.0"
