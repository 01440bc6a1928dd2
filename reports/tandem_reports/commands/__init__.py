"""The subcommands, one module each: `add` declares arguments, `run` works. What they share is in console."""
