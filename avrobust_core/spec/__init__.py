"""The YAML spec of a study: read strictly, validated whole, expanded into cells; free of torch."""
