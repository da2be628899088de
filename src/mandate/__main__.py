"""python -m mandate."""

from mandate.cli import main

if __name__ == "__main__":
    main()
