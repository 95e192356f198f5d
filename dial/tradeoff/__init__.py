"""From stage tables to trade-off curves and operating points: pure mathematics, without torch."""
