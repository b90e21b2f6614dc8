"""How the embedded models were made: recipes, one resumable training loop, and the export to the zoo."""
