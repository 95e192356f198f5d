"""What is said of a stage table: operating points, intervals, text and figures."""
