"""`python -m pabal`."""

from pabal.cli.main import main

main(prog_name="pabal")
