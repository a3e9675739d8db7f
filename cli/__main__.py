"""`python -m cli` is `finetune`."""

from cli import main

main()
