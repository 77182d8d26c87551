"""`python -m phiscale`: the command line, for torchrun and for environments without scripts."""

from phiscale.cli import main

if __name__ == "__main__":
    main()
