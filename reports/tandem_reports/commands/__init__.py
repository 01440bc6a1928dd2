"""The subcommands of tandem-report, one module each: `add` declares its arguments, `run` does its work."""
