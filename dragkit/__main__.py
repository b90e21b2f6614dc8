"""`python -m dragkit`: the command, without the laboratory's part."""

from dragkit.cli import main

if __name__ == "__main__":
    main()
