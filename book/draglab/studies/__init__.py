"""The book's measurements: comparisons on the same photos (`dragkit sweep`) and single checks (`dragkit measure`).

Settings were chosen on training photos (`tuning`). Budgets of different methods are equal in seconds, not in iterations (`budget`).
"""
