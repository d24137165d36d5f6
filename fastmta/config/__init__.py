"""main.cf and master.cf: syntax, the typed table of parameters, the immutable configuration."""
