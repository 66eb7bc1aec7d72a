"""`python -m retune` is the command `retune`, for a checkout whose `.venv/bin` is not on the path."""

if __name__ == "__main__":
    from retune_cli.commands import main

    main()
