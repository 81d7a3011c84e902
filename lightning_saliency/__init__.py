"""Watch where a vision model looks while it trains."""

import lazy_loader

# the names and where they are stand in __init__.pyi, for type checkers too; nothing is imported before it is asked for
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
