"""A plugin of avrobust: audio and video models of Hugging Face's transformers as encoders and as whole models."""
