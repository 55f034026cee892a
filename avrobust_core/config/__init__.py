"""What a configuration is read with: fields described, near names, faults in plain words."""
