"""The commands, by what they are for; `hfds.cli` puts them together."""
