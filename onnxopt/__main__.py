"""``python -m onnxopt``: the command line."""

from onnxopt.cli.main import main

if __name__ == "__main__":
    main()
