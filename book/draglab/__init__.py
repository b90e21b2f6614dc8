"""The laboratory behind the book: cases, studies, the training of the embedded models, tables, figures and pages."""
