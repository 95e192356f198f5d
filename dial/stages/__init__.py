"""Stage tables: what every stage of a staged model says of each row, and what that costs."""
