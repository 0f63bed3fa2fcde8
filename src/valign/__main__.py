"""`python -m valign` is `valign`."""

from valign.cli import main

if __name__ == "__main__":
    main()
