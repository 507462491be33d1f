"""The n-gram model of a text: by itself, and beside a net."""
