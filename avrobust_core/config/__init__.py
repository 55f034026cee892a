"""Reading configurations: fields described, near names, faults in plain words."""
