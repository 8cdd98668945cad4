"""The subcommands of ``ovseg``, one file each: a parser and what runs with what it parsed."""
