"""What is told about the work? Log events now; metrics and traces have their room here too."""
