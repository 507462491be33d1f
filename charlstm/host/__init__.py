"""What the machine and the program that started this one provide: cores, folders, streams, terminals."""
