"""`python -m rolloutbench` is `rolloutbench`."""

from rolloutbench.cli import main

if __name__ == "__main__":
    main()
