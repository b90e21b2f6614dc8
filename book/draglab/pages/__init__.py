"""What a page of the book shows: figures, tables, recorded numbers and claims."""
