"""Page: its templates, data, drawings, number formats and downloads."""
