"""The `dsdsh` program. What its commands do is in `opustomo.commands`; the list is in `opustomo.commands.registry`."""
