"""The multi-call program and its Postfix-named entry points."""
