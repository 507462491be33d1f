"""Files, folders, URLs and text in memory -> characters -> ids -> what each iteration reads."""
