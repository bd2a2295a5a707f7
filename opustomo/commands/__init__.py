"""One module per `dsd` command; each has `HELP`, `add_arguments(parser)` and `run(args)`."""
