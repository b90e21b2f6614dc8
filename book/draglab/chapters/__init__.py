"""What the chapters show beside their own few lines: tables and sentences made from recorded and live results, one file per chapter."""
