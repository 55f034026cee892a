"""An example plugin of avrobust: a third modality, depth."""
