"""From files, folders, URLs and strings to characters, to ids, to what each iteration reads."""
