"""The actions of rules: `registry.py` lists them all, one module a family runs them."""
