"""Two people for whatever widens access: one proposes, another approves, then it is done."""
