"""Tables and sentences of the chapters, made from recorded and live results: one file per chapter."""
