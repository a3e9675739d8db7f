"""How a node ended, as `finetune-node` says it; apart from what decides on it, which is slow to import."""

DONE, MAY_PASS, WILL_NOT, REFUSED = 0, 1, 2, 3
"""`MAY_PASS` was tried again already, `WILL_NOT` needs another configuration, other data or other code, `REFUSED` is what a
gate said."""
