"""The commands, a file for what each is about. `charlstm.cli` puts them together."""
