"""`python -m pplr` is `pplr`."""

from pplr.cli import main

if __name__ == "__main__":
    main()
