"""The process's environment: CPU cores, cache folder, standard streams, terminal or notebook."""
